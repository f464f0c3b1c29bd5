"""Local servers that behave like Mixpanel, Taplytics and Apptimize, for the demo, tests and benchmarks.

Nothing else imports this room. What is known of the real services, and from where, is said where it is imitated.
"""
