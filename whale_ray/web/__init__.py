"""Rules of HTTP that the service and the review page of discoveries share."""
