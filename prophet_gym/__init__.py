"""A learned robot simulator behind Gymnasium: importing it registers the ids and loads nothing heavy."""

from prophet_gym.envs.registration import register_ids

register_ids()
