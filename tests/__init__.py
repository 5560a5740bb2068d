"""All tests; a package so that suites can share builders and fixtures."""
