"""`pylwaftr bench`: how fast this machine forwards, looks up and updates.

plan     what to measure, as data; what the command line says is parsed here
machine  what it was measured on
child    a process of its own with DPDK: measures a plan (forward, table, updates: one file each)
stats    windows -> best and median
report   results -> JSON and tables; plot -> a picture
"""
