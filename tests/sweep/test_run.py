def test_x(finished):
    print(finished.folder); print(finished.table.T.to_string())
    import subprocess
    print(subprocess.run(["find", str(finished.folder)], capture_output=True, text=True).stdout)
    assert finished.exit_code == 0
