"""Mixture of experts: how tokens are routed, and what that costs."""
