/* SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
 *
 * What the maps say of a packet that opens a connection. The model of this is `image/evaluate.rs`. */
#pragma once

#include "patched.h"

struct address {
	__u32 family; /* 4 or 6: an IPv4 address inside an IPv6 one is another address (NP-068). */
	__u8 bytes[16]; /* IPv4: the first four, the others zero. */
};

struct endpoint {
	__u32 number;
	__u32 ingress;
	__u32 egress;
	__u32 ingress_of_hairpin;
	__u32 egress_of_hairpin;
	__u32 egress_to_node;
};

struct network_key {
	__u32 prefix;
	struct address address;
};

struct word_key {
	__u32 policy;
	__u32 class;
};

struct port_key {
	__u32 list;
	__u8 protocol;
	__u8 prefix;
	__u16 port;
};

/* What is inside a packet. */
enum content {
	UNREADABLE,
	WITH_PORT,
	WITHOUT_PORT,
	LATER_FRAGMENT,
	NEIGHBOUR_DISCOVERY,
};

struct packet {
	struct address source;
	struct address destination;
	__u32 content;
	__u32 protocol;
	__u32 port;
	__u32 reply; /* It answers the packet that is judged, and is described as that one. */
};

INLINE __u32 class_of(const struct address *address)
{
	__u32 *class = bpf_map_lookup_elem(ADDRESSES, address);
	if (class)
		return *class;
	struct network_key key = { .prefix = 160, .address = *address };
	class = bpf_map_lookup_elem(NETWORKS, &key);
	return class ? *class : 0;
}

/* What protocols with ports are called in a word: 0 TCP, 1 UDP, 2 SCTP, 3 none of them. */
INLINE __u32 place(__u32 protocol)
{
	return protocol == IPPROTO_TCP	? 0
	       : protocol == IPPROTO_UDP ? 1
	       : protocol == IPPROTO_SCTP ? 2
					  : 3;
}

INLINE int passes(__u32 policy, const struct address *peer, const struct packet *packet)
{
	if (!policy)
		return 1;
	struct word_key key = { .policy = policy, .class = class_of(peer) };
	__u64 *found = bpf_map_lookup_elem(WORDS, &key);
	if (!found)
		found = bpf_map_lookup_elem(POLICIES, &policy);
	if (!found)
		return 0;
	__u64 word = *found;
	if (packet->content == WITHOUT_PORT)
		return word >> 16 & 1;
	__u32 at = place(packet->protocol);
	int otherwise = word >> (17 + at) & 1;
	if (!(word >> (20 + at) & 1))
		return otherwise;
	if (packet->content == LATER_FRAGMENT)
		return 0;
	struct port_key ports = { .list = word >> 32, .protocol = packet->protocol };
	for (int bit = 0; bit < 16; bit++) {
		if (!(word >> bit & 1))
			continue;
		ports.prefix = 16 - bit;
		ports.port = packet->port & (0xffff << bit);
		__u32 *row = bpf_map_lookup_elem(PORTS, &ports);
		if (row)
			return *row;
	}
	return otherwise;
}
