//! Label selectors and CIDRs, by their truth tables.

use core::net::IpAddr;

use netpol_core::model::{Cidr, Field, LabelSelector, Labels, Operator};

/// A selector against labels; what cannot be read is told apart from what does not match.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Selects {
    Yes,
    No,
    Unreadable,
}

/// NP-040, NP-041.
pub(super) fn select(selector: &LabelSelector, labels: &Labels) -> Selects {
    let mut all = true;
    match &selector.match_labels {
        Field::Absent | Field::Null => {}
        Field::Unreadable => return Selects::Unreadable,
        Field::Given(pairs) => {
            for (key, value) in pairs {
                all &= labels.0.get(key) == Some(value); // NP-043: "" needs the key
            }
        }
    }
    match &selector.match_expressions {
        Field::Absent | Field::Null => {}
        Field::Unreadable => return Selects::Unreadable,
        Field::Given(requirements) => {
            for requirement in requirements {
                let value = labels.0.get(&requirement.key);
                all &= match (requirement.operator, value) {
                    (Operator::In | Operator::Exists, None) => false,
                    (Operator::NotIn | Operator::DoesNotExist, None) => true, // NP-042
                    (Operator::In, Some(value)) => requirement.values.contains(value),
                    (Operator::NotIn, Some(value)) => !requirement.values.contains(value),
                    (Operator::Exists, Some(_)) => true,
                    (Operator::DoesNotExist, Some(_)) => false,
                };
            }
        }
    }
    if all { Selects::Yes } else { Selects::No }
}

/// A selector that selects nothing when it cannot be read.
pub(super) fn selects(selector: &LabelSelector, labels: &Labels) -> bool {
    select(selector, labels) == Selects::Yes
}

/// Whether the leading bits agree; never across families (NP-065, NP-068).
pub(super) fn holds(cidr: Cidr, address: IpAddr) -> bool {
    let prefix = u32::from(cidr.net().prefix_len());
    match (cidr.net().addr(), address) {
        (IpAddr::V4(net), IpAddr::V4(address)) => {
            (u32::from(net) ^ u32::from(address)).leading_zeros() >= prefix
        }
        (IpAddr::V6(net), IpAddr::V6(address)) => {
            (u128::from(net) ^ u128::from(address)).leading_zeros() >= prefix
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
    }
}
