"""What happens to NATs and links of a running lab, and background traffic."""
