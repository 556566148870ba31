//! What an unknown field may have been meant as.

/// Fields of the policy kinds, and where each belongs, for fields that stand at the wrong level.
const PLACES: &[(&str, &str)] = &[
    ("cidr", "inside `ipBlock`"),
    ("except", "inside `ipBlock`"),
    ("matchLabels", "inside `podSelector` or `namespaceSelector`"),
    ("matchExpressions", "inside `podSelector` or `namespaceSelector`"),
    ("key", "in an entry of `matchExpressions`"),
    ("operator", "in an entry of `matchExpressions`"),
    ("values", "in an entry of `matchExpressions`"),
    ("ipBlock", "in an entry of `from` or `to`"),
    ("namespaceSelector", "in an entry of `from` or `to`, or inside `pods`"),
    ("podSelector", "inside `spec`, in an entry of `from` or `to`, or inside `pods`"),
    ("port", "in an entry of `ports`"),
    ("endPort", "in an entry of `ports`"),
    ("protocol", "in an entry of `ports`"),
    ("from", "in an entry of `ingress`"),
    ("to", "in an entry of `egress`"),
    ("ports", "in an entry of `ingress` or `egress`, beside `from` or `to`"),
    ("ingress", "inside `spec`"),
    ("egress", "inside `spec`"),
    ("policyTypes", "inside `spec`"),
    ("tier", "inside `spec`"),
    ("priority", "inside `spec`"),
    ("subject", "inside `spec`"),
    ("number", "inside `destinationPort`"),
    ("range", "inside `destinationPort`"),
    ("labels", "inside `metadata`"),
    ("annotations", "inside `metadata`"),
    ("name", "inside `metadata`"),
    ("namespace", "inside `metadata`"),
];

/// Returns a hint in backticks: a field of this level that is spelled nearly so, or the level where the field belongs.
pub(super) fn did_you_mean(name: &str, known: &[&'static str]) -> Option<String> {
    if name == "ports" && known.contains(&"protocols") {
        return Some("`protocols`".to_owned());
    }
    let budget = (name.chars().count() / 3).min(2);
    let near = near_miss(name, known).or_else(|| {
        let ranked = known.iter().map(|candidate| (distance(name, candidate, budget), *candidate));
        ranked.filter(|(distance, _)| *distance <= budget).min().map(|(_, candidate)| candidate)
    });
    if let Some(near) = near {
        return Some(format!("`{near}`"));
    }
    let place = PLACES.iter().find(|(field, _)| field.eq_ignore_ascii_case(name));
    place.map(|(field, place)| format!("`{field}` {place}"))
}

/// Returns a field that differs only in case, or in one character.
pub(super) fn near_miss(name: &str, known: &[&'static str]) -> Option<&'static str> {
    let same_but_case = known.iter().find(|candidate| candidate.eq_ignore_ascii_case(name));
    let one_off =
        || known.iter().find(|candidate| name.len() > 2 && distance(name, candidate, 1) <= 1);
    same_but_case.or_else(one_off).copied()
}

/// Returns the edit distance, or something larger than `budget` as soon as it is sure to be.
fn distance(left: &str, right: &str, budget: usize) -> usize {
    if left.len().abs_diff(right.len()) > budget {
        return budget + 1;
    }
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (index, left) in left.bytes().enumerate() {
        let mut diagonal = index;
        let mut before = index + 1;
        for (cell, right) in row.iter_mut().skip(1).zip(right.bytes()) {
            let replaced = diagonal + usize::from(left != right);
            diagonal = *cell;
            *cell = replaced.min(before + 1).min(diagonal + 1);
            before = *cell;
        }
        if let Some(first) = row.first_mut() {
            *first = index + 1;
        }
    }
    row.last().copied().unwrap_or(budget + 1)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::did_you_mean;

    const PEER: &[&str] = &["podSelector", "namespaceSelector", "ipBlock"];
    const RULE: &[&str] = &["from", "ports"];

    #[rstest]
    #[case::case("podselector", PEER, "`podSelector`")]
    #[case::two_letters("namespacSelectr", PEER, "`namespaceSelector`")]
    #[case::other_level("cidr", RULE, "`cidr` inside `ipBlock`")]
    #[case::singular("port", RULE, "`ports`")]
    #[case::protocols("ports", &["action", "to", "protocols"], "`protocols`")]
    fn an_unknown_field_comes_with_what_was_meant(
        #[case] name: &str,
        #[case] known: &[&'static str],
        #[case] hint: &str,
    ) {
        assert_eq!(did_you_mean(name, known).as_deref(), Some(hint));
    }

    #[test]
    fn nothing_near_gives_no_hint() {
        assert_eq!(did_you_mean("foo", PEER), None);
    }
}
