/* SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
 *
 * The connections of pods, as their interfaces see them: one row for each pod's end, the same for both directions. */
#pragma once

#include "judge.h"

struct flow_key {
	struct address local; /* The pod. */
	struct address peer;
	/* Of an echo, the identifier at the end that asked, and 0. Of protocols without ports, zeros. */
	__u16 local_port;
	__u16 peer_port;
	__u32 protocol;
} __attribute__((aligned(8)));

/* What never changes of a connection. */
#define FROM_PEER 1 /* The peer opened it. */
#define OF_NODE 2 /* The node itself did: it is not judged (NP-125, NP-128). */
#define HAIRPIN 4 /* The pod did, through a Service. */

/* How far it has come. */
#define ANSWERED 1
#define CLOSING 2

/* The kernel may give a row to another connection between its being found and being read. So what is read says whose it
 * is: `tag` is made of the key and the kind, and `judged` of the tag and the version that last let it pass. */
struct flow {
	__u64 seen;
	__u64 tag;
	__u64 judged;
	__u32 kind;
	__u32 state;
};

/* For how many nanoseconds a connection is known without packets. */
struct times {
	__u64 opening; /* TCP and SCTP without an answer, */
	__u64 open; /* with one, */
	__u64 closing; /* and after the end or a reset. */
	__u64 unanswered; /* UDP and echo, */
	__u64 answered; /* and with an answer, as protocols without ports. */
	__u64 bare; /* Protocols without ports, without an answer. */
	__u64 fragment; /* A datagram whose fragments are coming. */
};

/* What identifies the fragments of a datagram, and the ports that only the first one has. */
struct fragment_key {
	struct address source;
	struct address destination;
	__u32 identification;
	__u32 protocol;
} __attribute__((aligned(8)));

union ports {
	__u64 all;
	struct {
		__u16 source_port;
		__u16 port;
		__u16 echo;
		__u8 is_echo;
		__u8 asks;
	};
};

/* As with connections, what is read says whose it is: `check` is made of the key and the ports. */
struct fragment {
	__u64 seen;
	__u64 ports;
	__u64 check;
};

/* An address and port that are translated elsewhere, and what stands behind them. */
struct service_key {
	struct address address;
	__u16 port;
	__u8 protocol;
	__u8 unused;
};

struct target {
	__u32 class;
	__u32 pod; /* The only one behind this target, if it is one with policies; else 0. */
	__u16 port;
	__u16 is_node;
};

#define TARGETS 8

struct service {
	__u32 count; /* Of targets; more than there may be if not all are known. */
	__u32 unused;
	struct target targets[TARGETS];
};

/* What stands for a key, which is twelve half words: each times a secret number of its own. So whoever can choose both of
 * two keys, but does not know the numbers, makes them have one tag with a chance of 2^-33 at the most. (A seed in front of
 * something that is computed step by step would not do: what differs in the highest bit of one step differs in known bits
 * after it, whatever the seed.) */
INLINE __u64 tag_of_words(const __u32 *words, __u32 kind)
{
	const volatile __u64 *secrets = SECRET;
	__u64 sum = secrets[12] + secrets[13] * kind;
#pragma clang loop unroll(full)
	for (int word = 0; word < 12; word++)
		sum += secrets[word] * words[word];
	return sum;
}

INLINE __u64 tag_of(const struct flow_key *key, __u32 kind)
{
	return tag_of_words((const __u32 *)key, kind);
}

INLINE __u64 tag_of_fragment(const struct fragment_key *key)
{
	return tag_of_words((const __u32 *)key, 0);
}

INLINE int is_over(__u64 seen, __u64 time, __u64 now)
{
	/* Another processor may have seen it later. */
	return (long long)(now - seen) > (long long)time;
}

INLINE int is_forgotten(const struct flow *flow, const struct flow_key *key, __u64 now)
{
	const volatile struct times *times = TIMES;
	__u32 protocol = key->protocol, state = flow->state;
	__u64 time = times->bare;
	if (protocol == IPPROTO_TCP || protocol == IPPROTO_SCTP)
		time = state & CLOSING ? times->closing : state & ANSWERED ? times->open : times->opening;
	else if (state & ANSWERED)
		time = times->answered;
	else if (key->local_port | key->peer_port)
		time = times->unanswered;
	return is_over(flow->seen, time, now);
}
