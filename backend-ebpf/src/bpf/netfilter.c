/* SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
 *
 * The netfilter front end: FORWARD and LOCAL_IN, both families, behind connection tracking and destination NAT.
 *
 *   slot    what the hooks run: goes to the program with the maps in force
 *   judge   looks into one set of maps
 */
#include "judge.h"

struct reader {
	struct bpf_dynptr data;
};

INLINE long look(struct reader *reader, void *to, __u32 length, __u32 offset)
{
	return bpf_dynptr_read(to, length, &reader->data, offset, 0);
}

INLINE void at_transport(struct reader *reader, __u32 offset, __u32 fragment) {}
INLINE void at_fragment(struct reader *reader, __u32 offset) {}

#include "headers.h"
#include "verdict.h"

SECTION("slot") int run_slot(struct bpf_nf_ctx *ctx)
{
	bpf_tail_call(ctx, SLOT, 0);
	return NF_DROP; /* No ruleset: the slot is filled before any hook is. */
}

/* Judges the packet that opened the connection which this packet belongs to. */
INLINE int verdict(struct bpf_nf_ctx *ctx, __u64 version, __u32 is_strict, __u32 reply)
{
	struct reader reader;
	struct packet packet = { .version = version, .reply = reply };
	__u8 ip[40];
	int version6 = ctx->state->pf == 10;
	int forward = ctx->state->hook == NF_INET_FORWARD;
	struct address *from = reply ? &packet.destination : &packet.source;
	struct address *to = reply ? &packet.source : &packet.destination;
	bpf_dynptr_from_skb(ctx->skb, 0, &reader.data);
	if (!addresses(&reader, version6, ip, from, to))
		return NF_DROP;

	struct end source = end_of(&packet.source, version);
	struct end destination = end_of(&packet.destination, version);
	if (is_strict) {
		if (is_unknown(source, &packet.source))
			be_nobody(&source);
		/* What is delivered on the node itself is no pod's, and what a node sends is no pod's doing. */
		if (forward && !(source.class & IS_NODE) && is_unknown(destination, &packet.destination))
			be_nobody(&destination);
	}
	const volatile struct pod *of_source = source.policies, *of_destination = destination.policies;
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

	packet.length = LENGTH(ctx->skb);
	contents(&reader, version6, ip, &packet);
	return both_pass(&packet, egress, ingress, source.class, destination.class) ? NF_ACCEPT : NF_DROP;
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

#include "passes.h"
