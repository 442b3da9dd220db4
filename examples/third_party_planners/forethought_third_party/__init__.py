"""Planners of other packages on Forethought's seam, each a class around `forethought.planners.HostedPlanner`."""
