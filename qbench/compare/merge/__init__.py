"""From several folders of results to one."""
