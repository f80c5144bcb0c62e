.PHONY: check slow format

check: ## lint, types and fast tests
	./run_tests.sh

slow: ## the tests that take minutes
	./run_tests.sh -m slow

format: ## write the code as `make check` wants it
	ruff check --fix .
	ruff format .
