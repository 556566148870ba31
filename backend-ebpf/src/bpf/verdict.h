/* SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
 *
 * Both sides of a packet whose contents are read: each a policy, and the class of the other end. */
#pragma once

#include "judge.h"

INLINE int both_pass(struct packet *packet, __u32 egress, __u32 ingress, __u32 source, __u32 destination)
{
	if (packet->content == NEIGHBOUR_DISCOVERY)
		return 1;
	int is_ingress = 0;
	if (packet->content == UNREADABLE) {
		is_ingress = ingress != 0;
		count(packet, is_ingress ? GUARD_OF_INGRESS : GUARD_OF_EGRESS, 0);
	} else if (passes(egress, destination, &packet->destination, packet, GUARD_OF_EGRESS)) {
		if (passes(ingress, source, &packet->source, packet, GUARD_OF_INGRESS))
			return 1;
		is_ingress = 1;
	}
	drop(packet, is_ingress);
	return 0;
}
