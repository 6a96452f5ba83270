"""What changes from robot to robot: commands, cameras, kinematics."""
