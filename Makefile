.PHONY: check slow format

check: ## lint, types and fast tests
	./run_tests.sh

slow: ## the long tests, and further cases of costly ones
	./run_tests.sh -m slow

format: ## write the code as `make check` wants it
	ruff check --fix .
	ruff format .
