"""Why a packet is forwarded, or not: its way through the stages, told in words."""
