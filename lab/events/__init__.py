"""Events and background traffic of a running lab: changes of NATs and links."""
