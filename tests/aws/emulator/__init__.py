"""AWS on loopback for the tests of aws/*.sh: ministack, with the resource types that it lacks and faults on purpose.

`python -m emulator` with tests/aws on PYTHONPATH serves; `server.Emulator` starts that from a test. What it cannot show
(deploy-rules: Replacement, Ref of secrets, IAM, Rules) is asserted on the templates instead.
"""
