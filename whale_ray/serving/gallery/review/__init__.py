"""Photographs that wait for a person: the queue, and their searches after a new bundle or an enrolment."""
