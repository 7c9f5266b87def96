"""The outer files of the router: the only ones that own its sockets, clocks, signals and tasks.

They turn a configuration into a running machine (EAL, table, ports, workers, services) and back. What they decide is
decided by others: eal_args, ports, bindings, the protocol cores.
"""
