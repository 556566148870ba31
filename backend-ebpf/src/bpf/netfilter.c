/* SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
 *
 * The netfilter front end: FORWARD and LOCAL_IN, both families, behind connection tracking and destination NAT.
 *
 *   slot    what the hooks run: goes to the program with the maps in force
 *   judge   looks into one set of maps
 */
#include "judge.h"

SECTION("slot") int run_slot(struct bpf_nf_ctx *ctx)
{
	bpf_tail_call(ctx, SLOT, 0);
	return NF_DROP; /* No ruleset: the slot is filled before any hook is. */
}

/* Reads the ports, or what there is instead, at `offset`. */
INLINE void transport(const struct bpf_dynptr *data, __u32 offset, __u32 fragment, struct packet *packet)
{
	__u32 protocol = packet->protocol;
	if (has_ports(protocol)) {
		__u8 ports[4];
		if (fragment)
			packet->content = LATER_FRAGMENT;
		else if (!bpf_dynptr_read(ports, sizeof(ports), data, offset, 0)) {
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
		if (bpf_dynptr_read(&type, sizeof(type), data, offset, 0))
			packet->content = UNREADABLE;
		else if (type >= 133 && type <= 137)
			packet->content = NEIGHBOUR_DISCOVERY;
	}
}

INLINE void ipv6_headers(const struct bpf_dynptr *data, __u32 protocol, struct packet *packet)
{
	__u32 offset = 40;
	for (int count = 0; count < 8; count++) {
		__u8 header[4];
		switch (protocol) {
		case IPPROTO_HOPOPTS:
		case IPPROTO_ROUTING:
		case IPPROTO_DSTOPTS:
			if (bpf_dynptr_read(header, sizeof(header), data, offset, 0))
				return;
			offset += (header[1] + 1) * 8;
			break;
		case IPPROTO_AH:
			if (bpf_dynptr_read(header, sizeof(header), data, offset, 0))
				return;
			offset += (header[1] + 2) * 4;
			break;
		case IPPROTO_FRAGMENT:
			if (bpf_dynptr_read(header, sizeof(header), data, offset, 0))
				return;
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
				return transport(data, offset, 1, packet);
			}
			break;
		default:
			packet->protocol = protocol;
			return transport(data, offset, 0, packet);
		}
		protocol = header[0];
	}
}

/* Judges the packet that opened the connection which this packet belongs to. */
INLINE int verdict(struct bpf_nf_ctx *ctx, __u64 version, __u32 is_strict, __u32 reply)
{
	struct bpf_dynptr data;
	struct packet packet = { .version = version, .reply = reply };
	__u8 ip[40];
	int version6 = ctx->state->pf == 10;
	int forward = ctx->state->hook == NF_INET_FORWARD;
	struct address *from = reply ? &packet.destination : &packet.source;
	struct address *to = reply ? &packet.source : &packet.destination;
	bpf_dynptr_from_skb(ctx->skb, 0, &data);
	if (version6) {
		if (bpf_dynptr_read(ip, 40, &data, 0, 0) || ip[0] >> 4 != 6)
			return NF_DROP;
		from->family = to->family = 6;
		__builtin_memcpy(from->bytes, ip + 8, 16);
		__builtin_memcpy(to->bytes, ip + 24, 16);
	} else {
		if (bpf_dynptr_read(ip, 20, &data, 0, 0) || ip[0] >> 4 != 4)
			return NF_DROP;
		from->family = to->family = 4;
		__builtin_memcpy(from->bytes, ip + 12, 4);
		__builtin_memcpy(to->bytes, ip + 16, 4);
	}

	struct end source = end_of(&packet.source, version);
	struct end destination = end_of(&packet.destination, version);
	if (is_strict) {
		if (is_unknown(source, &packet.source))
			source.pod = NOBODY;
		/* What is delivered on the node itself is no pod's, and what a node sends is no pod's doing. */
		if (forward && !(source.class & IS_NODE) && is_unknown(destination, &packet.destination))
			destination.pod = NOBODY;
	}
	struct pod *of_source = bpf_map_lookup_elem(PODS, &source.pod);
	struct pod *of_destination = bpf_map_lookup_elem(PODS, &destination.pod);
	if (!of_source || !of_destination)
		return NF_DROP;
	__u32 egress, ingress;
	if (!forward) {
		egress = of_source->egress_to_node;
		ingress = 0;
	} else if (source.pod == destination.pod) {
		egress = of_source->egress_of_hairpin;
		ingress = of_destination->ingress_of_hairpin;
	} else {
		egress = of_source->egress;
		ingress = of_destination->ingress;
	}
	if (!egress && !ingress)
		return NF_ACCEPT;

	if (version6) {
		ipv6_headers(&data, ip[6], &packet);
	} else {
		packet.protocol = ip[9];
		if ((ip[0] & 15) >= 5)
			transport(&data, (ip[0] & 15) * 4, (ip[6] & 0x1f) | ip[7], &packet);
	}
	if (packet.content == NEIGHBOUR_DISCOVERY)
		return NF_ACCEPT;
	int is_ingress = 0;
	if (packet.content == UNREADABLE) {
		is_ingress = ingress != 0;
		count(&packet, is_ingress ? GUARD_OF_INGRESS : GUARD_OF_EGRESS);
	} else if (passes(egress, destination.class, &packet.destination, &packet, GUARD_OF_EGRESS)) {
		if (passes(ingress, source.class, &packet.source, &packet, GUARD_OF_INGRESS))
			return NF_ACCEPT;
		is_ingress = 1;
	}
	return drop(&packet, is_ingress);
}

/* What is noted of a connection that this version let pass. The kernel may give the row to another connection between its
 * being found and being read, so the note holds the connection too, in the same store: the upper 16 bits of all pointers
 * are the same, as are the lower 6 of those to connections, so the first 2^22 versions can never be taken for others. */
INLINE __u64 note(__u64 conntrack, __u64 version)
{
	return conntrack ^ (version << 48 | version >> 16);
}

SECTION("judge") int run_judge(struct bpf_nf_ctx *ctx)
{
	const volatile struct state *state = STATE;
	/* Invalid packets have no pointer, untracked ones a state of their own: they are judged like new ones. */
	__u64 conntrack = CONNTRACK(ctx->skb);
	__u32 how = conntrack & 7, reply = 0;
	conntrack &= ~7ULL;
	if (conntrack && (how == IP_CT_RELATED || how == IP_CT_RELATED_REPLY))
		return NF_ACCEPT;
	/* Read once: all that is looked up is of this version. */
	__u64 version = state->version;
	__u32 open = conntrack && (how == IP_CT_ESTABLISHED || how == IP_CT_ESTABLISHED_REPLY);
	if (open) {
		if (state->keeps)
			return NF_ACCEPT;
		reply = how == IP_CT_ESTABLISHED_REPLY;
		if (reply && ctx->state->hook != NF_INET_FORWARD)
			return NF_ACCEPT; /* The node opened it (NP-125, NP-128). */
		/* A connection is judged once in each version. Where one begins in the memory of another, its first
		 * packet has been judged by this version since, so what is noted holds for both. */
		__u64 *checked = bpf_map_lookup_elem(CHECKED, &conntrack);
		if (checked && *checked == note(conntrack, version))
			return NF_ACCEPT;
	}
	int passed = verdict(ctx, version, state->is_strict, reply);
	if (open && passed == NF_ACCEPT) {
		__u64 judged = note(conntrack, version);
		bpf_map_update_elem(CHECKED, &conntrack, &judged, 0);
	}
	return passed;
}

OUTLINE int passes(__u32 policy, __u32 class, const struct address *peer, struct packet *packet, __u32 guard)
{
	if (!policy)
		return 1;
	__u64 key = (__u64)policy << 32 | class_of(class, peer, packet->version);
	const volatile struct entry *found = find(WORDS, STATE->words_mask, key);
	__u64 word;
	if (found) {
		word = found->value;
	} else {
		__u64 *rest = bpf_map_lookup_elem(POLICIES, &policy);
		if (!rest)
			return 0;
		word = *rest;
	}
	__u32 counter = word >> 23 & 0x1fffff;
	if (packet->content == WITHOUT_PORT) {
		count(packet, counter);
		return word >> 16 & 1;
	}
	__u32 at = place(packet->protocol);
	int verdict = word >> (17 + at) & 1;
	counter += 1 + at;
	if (word >> (20 + at) & 1) {
		if (packet->content == LATER_FRAGMENT) {
			/* Not every port passes (NP-116). */
			if (verdict)
				counter = guard;
			verdict = 0;
		} else {
			struct port_key ports = { .list = word >> 44, .protocol = packet->protocol };
			__u32 *row = 0;
			for (int bit = 0; bit < 16 && !row; bit++) {
				if (!(word >> bit & 1))
					continue;
				ports.prefix = 16 - bit;
				ports.port = packet->port & (0xffff << bit);
				row = bpf_map_lookup_elem(PORTS, &ports);
			}
			if (row) {
				verdict = *row & 1;
				counter += 3 - at + (*row >> 1);
			}
		}
	}
	count(packet, counter);
	return verdict;
}

