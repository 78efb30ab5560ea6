.PHONY: deps
deps: .venv/.ready
.venv/.ready: requirements/dev.txt
	python3 -m venv .venv
	.venv/bin/pip install -qq --require-hashes -r requirements/dev.txt
	touch $@
