use super::{EndText, FlowText, FlowTextError, ServiceText};
use netpol_core::model::Protocol;

#[track_caller]
fn check(text: &str, source: &EndText, destination: &EndText, service: &ServiceText) {
    let flow = FlowText::parse(text).unwrap_or_else(|error| panic!("`{text}`: {error}"));
    assert_eq!(
        (&flow.source, &flow.destination, &flow.service),
        (source, destination, service),
        "`{text}`"
    );
}

fn pod(namespace: &str, name: &str) -> EndText {
    EndText::Named { namespace: Some(namespace.into()), name: name.into(), kind: None }
}

fn address(text: &str) -> EndText {
    EndText::Address(text.parse().expect("test address"))
}

#[test]
fn protocol_defaults_to_tcp_later_and_is_kept_when_written() {
    let (a, b) = (pod("x", "a"), pod("y", "b"));
    check("x/a -> y/b:80", &a, &b, &ServiceText::Port(80, None));
    check("x/a->y/b:80/UDP", &a, &b, &ServiceText::Port(80, Some(Protocol::Udp)));
    check(" x/a → y/b:80/sctp ", &a, &b, &ServiceText::Port(80, Some(Protocol::Sctp)));
    check("x/a -> y/b:80 TCP", &a, &b, &ServiceText::Port(80, Some(Protocol::Tcp)));
    check("x/a -> y/b:80/6", &a, &b, &ServiceText::Port(80, Some(Protocol::Tcp)));
    check("x/a -> y/b:http-alt", &a, &b, &ServiceText::Name("http-alt".into(), None));
    check(
        "x/a-1->y/b:dns/UDP",
        &pod("x", "a-1"),
        &b,
        &ServiceText::Name("dns".into(), Some(Protocol::Udp)),
    );
}

#[test]
fn protocols_without_ports_follow_a_space_or_a_slash() {
    let (a, b) = (pod("x", "a"), pod("y", "b"));
    check("x/a -> y/b ICMP", &a, &b, &ServiceText::Icmp);
    check("x/a -> y/b/ICMP", &a, &b, &ServiceText::Icmp);
    check("x/a -> y/b/icmp", &a, &b, &ServiceText::Icmp);
    check("x/a -> y/b gre", &a, &b, &ServiceText::Other(47));
    check("x/a -> y/b 89", &a, &b, &ServiceText::Other(89));
    check("x/a -> 10.0.0.1/ICMP", &a, &address("10.0.0.1"), &ServiceText::Icmp);
    check("x/a -> fd00::1/ICMP", &a, &address("fd00::1"), &ServiceText::Icmp);
    check("x/a -> [fd00::1] ICMPv6", &a, &address("fd00::1"), &ServiceText::Other(58));
    check("x/a -> node/n1 ICMP", &a, &EndText::Node("n1".into()), &ServiceText::Icmp);
    let bare = EndText::Named { namespace: None, name: "b".into(), kind: None };
    check("x/a -> b/ICMP", &a, &bare, &ServiceText::Icmp);
}

#[test]
fn ends_are_pods_workloads_addresses_nodes_and_services() {
    let port = ServiceText::Port(80, None);
    check("10.0.0.1 -> 10.0.0.2:80", &address("10.0.0.1"), &address("10.0.0.2"), &port);
    check("fd00::1 -> [fd00::2]:80", &address("fd00::1"), &address("fd00::2"), &port);
    check("node/n.a-1 -> x/a:80", &EndText::Node("n.a-1".into()), &pod("x", "a"), &port);
    check("pod/node/a -> x/a:80", &pod("node", "a"), &pod("x", "a"), &port);
    let service = |namespace: Option<&str>| EndText::Service {
        namespace: namespace.map(Into::into),
        name: "s".into(),
    };
    check("x/a -> svc/y/s:80", &pod("x", "a"), &service(Some("y")), &port);
    check("x/a -> svc/s:80", &pod("x", "a"), &service(None), &port);
    let web = EndText::Named {
        namespace: Some("x".into()),
        name: "web".into(),
        kind: Some("Deployment".into()),
    };
    check("x/web[Deployment] -> x/web[Deployment]:80", &web, &web, &port);
    check("x/web[Deployment] -> x/web[Deployment]/ICMP", &web, &web, &ServiceText::Icmp);
}

#[test]
fn whatever_is_not_a_flow_is_told_with_its_remedy() {
    let error = |text: &str| FlowText::parse(text).expect_err(text);
    assert_eq!(error("x/a y/b:80"), FlowTextError::NoArrow);
    assert_eq!(error("x/a -> y/b -> z/c:80"), FlowTextError::TwoArrows);
    assert_eq!(error("-> y/b:80"), FlowTextError::EmptyEnd("source before the `->`"));
    assert_eq!(error("x/a ->"), FlowTextError::EmptyEnd("destination after the `->`"));
    assert_eq!(error("x/a:1 -> y/b:80"), FlowTextError::PortOnSource("x/a:1".into()));
    assert_eq!(error("svc/x/a -> y/b:80"), FlowTextError::ServiceAsSource("svc/x/a".into()));
    assert_eq!(error("x/a -> y/b"), FlowTextError::NoPort("y/b".into()));
    assert_eq!(error("x/a -> y/b/TCP"), FlowTextError::NoPort("y/b".into()));
    assert_eq!(error("x/a -> y/b:0"), FlowTextError::BadPort("0".into()));
    assert_eq!(error("x/a -> y/b:65536"), FlowTextError::BadPort("65536".into()));
    assert_eq!(error("x/a -> y/b:80/ICMP"), FlowTextError::PortlessWithPort("ICMP".into()));
    assert_eq!(error("x/a -> y/b:80/QUIC"), FlowTextError::UnknownProtocol("QUIC".into()));
    assert_eq!(error("x/a -> 10.0.0.0/8"), FlowTextError::Cidr("10.0.0.0/8".into()));
    assert_eq!(error("x/a -> y/b/c/d:80"), FlowTextError::BadEnd("y/b/c/d:80".into()));
    assert_eq!(error("x/a -> fd00::1:80:"), FlowTextError::BadEnd("fd00::1:80:".into()));
    assert_eq!(error("x/a -> fd00::1:80"), FlowTextError::NoPort("[fd00::1:80]".into()));
    assert_eq!(error("x/a -> y/b: 80"), FlowTextError::BadEnd("y/b:".into()));
}
