"""What aws/*.sh do: bring a stage of the bridge up on AWS, change it, take it back, look at it, remove it.

__main__    the command line; exit status 0 done, 1 failed, 2 wrong use or precondition, 3 deployed but not verified
arguments   what was typed and what the environment says
output      progress on a terminal, plain lines elsewhere
account     who we are on AWS; roles that AWS wants once
templates   aws/templates as files and in the artifacts bucket
parameters  which value each parameter of a template gets
rules       what CloudFormation would refuse of them, told beforehand
stacks      one stack: its status, what to do about it, its events while it changes
changes     a change set: what it would do, whether that may be done, doing it
registry    the shared stack of repositories and artifacts
images      tags, what is in the repositories, building and pushing
network     the VPC's stack, or somebody's own VPC
names       public zone, certificate, the records that are left to a person
contents    bridge.yaml and the sources' secrets in Secrets Manager
releases    what was deployed when, to go back to it
tasks       `kwb` in a one-off task: its log, its exit status
verify      whether what was deployed is what runs, and works from outside
remains     what a removed stage has left
costs       about what a month of it costs
deploy, update, run, destroy   the four commands
"""
