/* SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
 *
 * Reads a packet's headers up to the ports. A front end says before how bytes are read, behind the beginning of the IP
 * header (`look`), and what else it wants to know on the way (`at_transport`, `at_fragment`). */
#pragma once

#include "judge.h"

/* Reads the fixed part of the IP header; returns whether there is one of the family that is expected. */
INLINE int addresses(struct reader *reader, int version6, __u8 *ip, struct address *from, struct address *to)
{
	if (version6) {
		if (look(reader, ip, 40, 0) || ip[0] >> 4 != 6)
			return 0;
		from->family = to->family = 6;
		__builtin_memcpy(from->bytes, ip + 8, 16);
		__builtin_memcpy(to->bytes, ip + 24, 16);
	} else {
		if (look(reader, ip, 20, 0) || ip[0] >> 4 != 4)
			return 0;
		from->family = to->family = 4;
		__builtin_memcpy(from->bytes, ip + 12, 4);
		__builtin_memcpy(to->bytes, ip + 16, 4);
	}
	return 1;
}

/* Reads the ports, or what there is instead, at `offset`. */
INLINE void transport(struct reader *reader, __u32 offset, __u32 fragment, struct packet *packet)
{
	__u32 protocol = packet->protocol;
	at_transport(reader, offset, fragment);
	if (has_ports(protocol)) {
		__u8 ports[4];
		if (fragment)
			packet->content = LATER_FRAGMENT;
		else if (!look(reader, ports, sizeof(ports), offset)) {
			__u16 source = ports[0] << 8 | ports[1], destination = ports[2] << 8 | ports[3];
			packet->content = WITH_PORT;
			/* A reply comes from the port that the connection was opened to. */
			packet->source_port = packet->reply ? destination : source;
			packet->port = packet->reply ? source : destination;
		}
		return;
	}
	packet->content = WITHOUT_PORT;
	if (protocol == IPPROTO_ICMPV6 && packet->source.family == 6 && !fragment) {
		__u8 type;
		if (look(reader, &type, sizeof(type), offset))
			packet->content = UNREADABLE;
		else if (type >= 133 && type <= 137)
			packet->content = NEIGHBOUR_DISCOVERY;
	}
}

INLINE void ipv6_headers(struct reader *reader, __u32 protocol, struct packet *packet)
{
	__u32 offset = 40;
	for (int count = 0; count < 8; count++) {
		__u8 header[4];
		switch (protocol) {
		case IPPROTO_HOPOPTS:
		case IPPROTO_ROUTING:
		case IPPROTO_DSTOPTS:
			if (look(reader, header, sizeof(header), offset))
				return;
			offset += (header[1] + 1) * 8;
			break;
		case IPPROTO_AH:
			if (look(reader, header, sizeof(header), offset))
				return;
			offset += (header[1] + 2) * 4;
			break;
		case IPPROTO_FRAGMENT:
			if (look(reader, header, sizeof(header), offset))
				return;
			at_fragment(reader, offset);
			offset += 8;
			if (header[2] | (header[3] & 0xf8)) {
				/* A later fragment begins in the middle of something; if that is no transport
				 * header, what it belongs to is in the first one only. */
				packet->protocol = header[0];
				switch (header[0]) {
				case IPPROTO_HOPOPTS:
				case IPPROTO_ROUTING:
				case IPPROTO_DSTOPTS:
				case IPPROTO_AH:
				case IPPROTO_FRAGMENT:
					return;
				}
				return transport(reader, offset, 1, packet);
			}
			break;
		default:
			packet->protocol = protocol;
			return transport(reader, offset, 0, packet);
		}
		protocol = header[0];
	}
}

/* Reads everything behind the fixed part of the IP header. */
INLINE void contents(struct reader *reader, int version6, const __u8 *ip, struct packet *packet)
{
	if (version6) {
		ipv6_headers(reader, ip[6], packet);
	} else {
		packet->protocol = ip[9];
		if ((ip[0] & 15) >= 5)
			transport(reader, (ip[0] & 15) * 4, (ip[6] & 0x1f) | ip[7], packet);
	}
}
