/* SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
 *
 * The front end at interfaces: traffic control, on the node's side of the interfaces of pods.
 *
 *   from    what comes from a pod: goes to the program with the maps in force
 *   to      what goes to a pod, likewise
 *   judge   looks into one set of maps
 *
 * Who opened a connection is remembered at each pod's interface (`flows.h`): the kernel's connection tracking need not see
 * any of it. */
#include "flows.h"

/* All that is known of a packet while it is judged, one for each processor: of what lies in a map, the verifier follows
 * nothing, and so has the program to go through once and not once for every way that headers can be read. */
struct work {
	struct packet packet;
	struct flow_key key;
	struct address turned;
	__u64 now;
	__u64 tag;
	__u8 ip[40];
	__u32 transport; /* Where its header is. */
	__u32 fragment; /* Where the fragment header of IPv6 is, or 0. */
	__u32 to_pod;
	__u32 of_node; /* The node sends it itself. */
	__u32 kind;
	__u32 state;
	__u8 is_later; /* A fragment without the transport header. */
	__u8 is_tracked;
	__u8 opens;
	__u8 closes;
	__u8 is_echo;
	__u8 asks;
	__u8 is_error;
	__u8 is_reply;
	__u16 echo;
};

struct reader {
	struct __sk_buff *skb;
	struct work *work;
};

INLINE long look(struct reader *reader, void *to, __u32 length, __u32 offset)
{
	return bpf_skb_load_bytes_relative(reader->skb, offset, to, length, BPF_HDR_START_NET);
}

INLINE void at_transport(struct reader *reader, __u32 offset, __u32 fragment)
{
	reader->work->transport = offset;
	reader->work->is_later = fragment != 0;
}

INLINE void at_fragment(struct reader *reader, __u32 offset)
{
	reader->work->fragment = offset;
}

#include "headers.h"
#include "verdict.h"

#define FROM_POD 0
#define TO_POD 1

SECTION("from") int run_from(struct __sk_buff *skb)
{
	skb->cb[0] = FROM_POD;
	bpf_tail_call(skb, SLOT, 0);
	return TC_ACT_SHOT; /* No ruleset: the slot is filled before anything is attached. */
}

SECTION("to") int run_to(struct __sk_buff *skb)
{
	skb->cb[0] = TO_POD;
	bpf_tail_call(skb, SLOT, 0);
	return TC_ACT_SHOT;
}

#define FIN 1
#define SYN 2
#define RST 4
#define ACK 16

INLINE int is_icmp(__u32 protocol, __u32 family)
{
	return family == 4 ? protocol == IPPROTO_ICMP : protocol == IPPROTO_ICMPV6;
}

/* Takes the ports of a later fragment from what the first one said, and notes what a first one says. */
INLINE void fragments(struct reader *reader, struct work *work)
{
	struct packet *packet = &work->packet;
	struct fragment_key key = { .protocol = packet->protocol };
	int is_first;
	if (packet->source.family == 6) {
		__u8 header[8];
		if (!work->fragment || look(reader, header, sizeof(header), work->fragment))
			return;
		is_first = header[3] & 1;
		__builtin_memcpy(&key.identification, header + 4, 4);
	} else {
		is_first = work->ip[6] & 0x20;
		key.identification = work->ip[4] << 8 | work->ip[5];
	}
	if (!is_first && !work->is_later)
		return;
	key.source = packet->source;
	key.destination = packet->destination;
	__u64 tag = tag_of_fragment(&key);
	if (work->is_later) {
		const volatile struct fragment *known = bpf_map_lookup_elem(FRAGMENTS, &key);
		if (!known || is_over(known->seen, TIMES->fragment, work->now))
			return;
		union ports first = { .all = known->ports };
		/* The row may have become another datagram's meanwhile. */
		if (known->check != (first.all ^ tag))
			return;
		if (packet->content == LATER_FRAGMENT) {
			packet->source_port = first.source_port;
			packet->port = first.port;
			packet->content = WITH_PORT;
			work->is_tracked = 1;
		}
		if (first.is_echo) {
			work->is_tracked = work->is_echo = 1;
			work->asks = first.asks;
			work->echo = first.echo;
		}
		return;
	}
	union ports ports = {
		.source_port = packet->source_port,
		.port = packet->port,
		.echo = work->echo,
		.is_echo = work->is_echo,
		.asks = work->asks,
	};
	struct fragment first = { .seen = work->now, .ports = ports.all, .check = ports.all ^ tag };
	bpf_map_update_elem(FRAGMENTS, &key, &first, 0);
}

/* What an ICMP message is about. */
INLINE void icmp(struct reader *reader, struct work *work, struct packet *packet, __u32 at)
{
	__u8 header[6];
	if (look(reader, header, sizeof(header), at))
		return;
	__u32 type = header[0];
	if (packet->source.family == 4) {
		work->is_echo = type == 8 || type == 0;
		work->asks = type == 8;
		work->is_error = type == 3 || type == 4 || type == 5 || type == 11 || type == 12;
	} else {
		work->is_echo = type == 128 || type == 129;
		work->asks = type == 128;
		work->is_error = type >= 1 && type <= 4;
		/* Listener queries and reports stay on the link. */
		if (packet->destination.bytes[0] == 0xff && ((type >= 130 && type <= 132) || type == 143))
			packet->content = NEIGHBOUR_DISCOVERY;
	}
	work->is_tracked = work->is_echo;
	work->echo = header[4] << 8 | header[5];
}

/* Reads what a connection is known by, besides addresses and ports. */
INLINE void connection(struct reader *reader, struct work *work)
{
	struct packet *packet = &work->packet;
	if (packet->content == WITH_PORT) {
		work->is_tracked = 1;
		if (packet->protocol == IPPROTO_TCP) {
			__u8 flags;
			/* Without flags it may open a connection. */
			if (look(reader, &flags, sizeof(flags), work->transport + 13))
				flags = SYN;
			work->opens = (flags & (SYN | ACK)) == SYN;
			work->closes = (flags & (FIN | RST)) != 0;
		}
	} else if (packet->content == WITHOUT_PORT) {
		if (!is_icmp(packet->protocol, packet->source.family))
			work->is_tracked = 1;
		else if (!work->is_later)
			icmp(reader, work, packet, work->transport);
	}
}

/* The ports of a connection's packet, by its direction: it `leaves` the local end or gets there. */
INLINE void set_ports(struct work *work, struct packet *packet, __u32 leaves)
{
	struct flow_key *key = &work->key;
	key->local_port = key->peer_port = 0;
	key->protocol = packet->protocol;
	if (work->is_echo) {
		/* The end that asked has the identifier, and a bit that tells it from the other if that is 0. */
		if ((work->asks != 0) == (leaves != 0)) {
			key->local_port = work->echo;
			key->protocol |= 0x100;
		} else {
			key->peer_port = work->echo;
			key->protocol |= 0x200;
		}
	} else if (packet->content == WITH_PORT) {
		key->local_port = leaves ? packet->source_port : packet->port;
		key->peer_port = leaves ? packet->port : packet->source_port;
	}
}

/* Returns the connection of the key that was made of the packet, if it is known. */
INLINE struct flow *known(struct work *work)
{
	struct flow *flow = bpf_map_lookup_elem(FLOWS, &work->key);
	if (!flow)
		return 0;
	work->kind = flow->kind;
	work->state = flow->state;
	work->tag = flow->tag;
	if (work->tag != tag_of(&work->key, work->kind) || is_forgotten(flow, &work->key, work->now))
		return 0;
	return flow;
}

/* Whether an ICMP error quotes a packet of a connection of this pod's. What `work` says of the error is lost by it. */
OUTLINE int is_related(struct __sk_buff *skb, struct work *work)
{
	struct reader reader = { .skb = skb, .work = work };
	struct packet quoted = {};
	const struct address *pod;
	__u32 at = work->transport + 8;
	__u8 ip[40];
	if (work->packet.source.family == 6) {
		/* Extension headers are not looked behind. */
		if (look(&reader, ip, 40, at) || ip[0] >> 4 != 6)
			return 0;
		__builtin_memcpy(quoted.source.bytes, ip + 8, 16);
		__builtin_memcpy(quoted.destination.bytes, ip + 24, 16);
		quoted.protocol = ip[6];
		at += 40;
	} else {
		if (look(&reader, ip, 20, at) || ip[0] >> 4 != 4 || (ip[0] & 15) < 5 || (ip[6] & 0x1f) | ip[7])
			return 0;
		__builtin_memcpy(quoted.source.bytes, ip + 12, 4);
		__builtin_memcpy(quoted.destination.bytes, ip + 16, 4);
		quoted.protocol = ip[9];
		at += (ip[0] & 15) * 4;
	}
	quoted.source.family = quoted.destination.family = work->packet.source.family;
	if (has_ports(quoted.protocol)) {
		__u8 ports[4];
		if (look(&reader, ports, sizeof(ports), at))
			return 0;
		quoted.source_port = ports[0] << 8 | ports[1];
		quoted.port = ports[2] << 8 | ports[3];
		quoted.content = WITH_PORT;
	} else if (is_icmp(quoted.protocol, quoted.source.family)) {
		icmp(&reader, work, &quoted, at);
		if (!work->is_echo)
			return 0;
	}
	/* The pod is told of what it sent, or tells of what it got. */
	if (work->to_pod) {
		work->key.local = quoted.source;
		work->key.peer = quoted.destination;
		pod = &work->packet.destination;
	} else {
		work->key.local = quoted.destination;
		work->key.peer = quoted.source;
		pod = &work->packet.source;
	}
	set_ports(work, &quoted, work->to_pod);
	__u32 differs = work->key.local.family ^ pod->family;
#pragma clang loop unroll(full)
	for (int word = 0; word < 4; word++)
		differs |= ((const __u32 *)work->key.local.bytes)[word] ^ ((const __u32 *)pod->bytes)[word];
	return !differs && known(work);
}

/* Whether all that stands behind a Service may be reached: which of it is chosen is not to be seen here. */
INLINE int service_passes(const struct service *service, const volatile struct pod *of, __u32 pod, struct packet *packet)
{
	if (!of->egress && !of->egress_to_node && !of->egress_of_hairpin)
		return 1;
	__u32 count = service->count;
	if (!count || count > TARGETS)
		return 0;
	__u16 port = packet->port;
	int all = 1;
#pragma clang loop unroll(disable)
	for (__u32 place = 0; place < TARGETS && all; place++) {
		if (place >= count)
			break;
		const struct target *target = &service->targets[place];
		__u32 policy = target->is_node ? of->egress_to_node :
			       target->pod && target->pod == pod ? of->egress_of_hairpin : of->egress;
		packet->port = target->port;
		all = passes(policy, target->class | HAS_CLASS, &packet->destination, packet, GUARD_OF_EGRESS);
	}
	packet->port = port;
	return all;
}

/* Judges a packet that opens a connection: both sides, as far as they are pods of this node, at either one's interface. So
 * what goes from one to the other is judged by one ruleset altogether at the last interface that it passes, whatever another
 * ruleset said of it at the first one; behind destination NAT there, and no row is made where the peer would not take it. */
INLINE int verdict(struct work *work)
{
	struct packet *packet = &work->packet;
	__u64 version = packet->version;
	int is_ingress = work->kind & FROM_PEER;
	/* It has the node's address now, but is the pod's own. */
	if (work->kind & HAIRPIN)
		packet->source = packet->destination;
	struct end source = end_of(&packet->source, version);
	struct end destination = end_of(&packet->destination, version);
	if (STATE->is_strict) {
		if (is_unknown(source, &packet->source))
			be_nobody(&source);
		if (is_unknown(destination, &packet->destination))
			be_nobody(&destination);
	}
	const volatile struct pod *of_source = source.policies, *of_destination = destination.policies;
	if (!of_source || !of_destination)
		return 0;
	__u32 egress, ingress;
	if (source.pod == destination.pod) {
		egress = of_source->egress_of_hairpin;
		ingress = of_destination->ingress_of_hairpin;
	} else {
		egress = of_source->egress;
		ingress = of_destination->ingress;
	}
	/* Each side is counted where it is the pod's own. */
	packet->counted = 1 << (is_ingress ? GUARD_OF_EGRESS : GUARD_OF_INGRESS);
	if (!is_ingress) {
		if (packet->content == WITH_PORT) {
			struct service_key key = {
				.address = packet->destination,
				.port = packet->port,
				.protocol = packet->protocol,
			};
			struct service *service = bpf_map_lookup_elem(SERVICES, &key);
			if (service) {
				if (service_passes(service, of_source, source.pod, packet))
					return 1;
				drop(packet, 0);
				return 0;
			}
		}
		if (bpf_map_lookup_elem(OWN, &packet->destination)) {
			egress = of_source->egress_to_node;
			ingress = 0;
		}
	}
	if (!egress && !ingress)
		return 1;
	return both_pass(packet, egress, ingress, source.class, destination.class);
}

/* Remembers a connection that this version let pass. What is known is changed where it is: while the kernel replaces a row,
 * a look-up can find neither the old nor the new one. Should the row have become another connection's meanwhile, that one
 * is judged again. */
INLINE void remember(struct work *work)
{
	__u64 tag = tag_of(&work->key, work->kind), judged = tag ^ work->packet.version;
	struct flow *known = bpf_map_lookup_elem(FLOWS, &work->key);
	if (known && known->tag == tag) {
		known->seen = work->now;
		known->state = work->state;
		known->judged = judged;
		return;
	}
	struct flow flow = {
		.seen = work->now,
		.tag = tag,
		.judged = judged,
		.kind = work->kind,
		.state = work->state,
	};
	bpf_map_update_elem(FLOWS, &work->key, &flow, 0);
}

/* Describes an answer as the packet that it answers. */
INLINE void turn(struct work *work)
{
	struct packet *packet = &work->packet;
	__u16 port = packet->source_port;
	packet->source_port = packet->port;
	packet->port = port;
	work->turned = packet->source;
	packet->source = packet->destination;
	packet->destination = work->turned;
}

SECTION("judge") int run_judge(struct __sk_buff *skb)
{
	__u32 zero = 0, protocol = skb->protocol;
	struct work *work = bpf_map_lookup_elem(WORK, &zero);
	if (!work)
		return TC_ACT_SHOT;
	if (protocol == ETH_P_ARP)
		return TC_ACT_UNSPEC;
	if (protocol != ETH_P_IP && protocol != ETH_P_IPV6)
		return TC_ACT_SHOT;
	int version6 = protocol == ETH_P_IPV6;
	struct reader reader = { .skb = skb, .work = work };
	struct packet *packet = &work->packet;
	__builtin_memset(work, 0, sizeof(*work));
	/* Read once: all that is looked up is of this version. */
	packet->version = STATE->version;
	packet->length = skb->len - ETH_HLEN;
	work->now = bpf_ktime_get_ns();
	work->to_pod = skb->cb[0] == TO_POD;
	work->of_node = work->to_pod && !skb->ingress_ifindex;
	if (!addresses(&reader, version6, work->ip, &packet->source, &packet->destination))
		return TC_ACT_SHOT;
	if (!work->to_pod) {
		/* Nobody opens connections in another's name: what answers them would pass. */
		const volatile struct entry *place = find(PLACES, STATE->places_mask, digest_of(&packet->source));
		if (place && place->value != skb->ifindex)
			return TC_ACT_SHOT;
	}
	contents(&reader, version6, work->ip, packet);
	connection(&reader, work);
	if (packet->content == NEIGHBOUR_DISCOVERY)
		return TC_ACT_UNSPEC;
	fragments(&reader, work);
	if (work->is_error && !work->of_node) {
		if (is_related(skb, work))
			return TC_ACT_UNSPEC;
		/* An error is of no connection of its own. */
		work->is_tracked = work->is_echo = 0;
	}

	struct flow *flow = 0;
	if (work->is_tracked) {
		work->key.local = work->to_pod ? packet->destination : packet->source;
		work->key.peer = work->to_pod ? packet->source : packet->destination;
		set_ports(work, packet, !work->to_pod);
		/* What opens a connection is judged as that, whatever there was between the same ports. */
		if (!work->opens)
			flow = known(work);
	}
	if (flow) {
		__u32 kind = work->kind, was = work->state;
		work->is_reply = (kind & FROM_PEER) != work->to_pod;
		work->state = was | (work->is_reply ? ANSWERED : 0) | (work->closes ? CLOSING : 0);
		if (work->of_node || kind & OF_NODE || STATE->keeps ||
		    flow->judged == (work->tag ^ packet->version)) {
			/* Not every packet writes: processors would wait for each other. */
			if (work->state != was || work->now - flow->seen > 1ULL << 28) {
				flow->state = work->state;
				flow->seen = work->now;
			}
			return TC_ACT_UNSPEC;
		}
		if (work->is_reply)
			turn(work);
	} else {
		/* Above all that is no key. */
		__u64 interface = 1ULL << 32 | skb->ifindex;
		work->state = 0;
		work->kind = work->to_pod;
		if (work->of_node)
			work->kind |= OF_NODE;
		else if (work->to_pod && skb->ingress_ifindex == skb->ifindex &&
			 find(ALONE, STATE->alone_mask, interface))
			work->kind |= HAIRPIN;
	}
	if (!(work->kind & OF_NODE) && !verdict(work))
		return TC_ACT_SHOT;
	/* An end that nothing is known of is the end of nothing. */
	if (work->is_tracked && (flow || !work->closes))
		remember(work);
	return TC_ACT_UNSPEC;
}

#include "passes.h"
