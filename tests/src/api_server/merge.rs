//! Patches: JSON merge patch, which also serves for strategic and server-side apply patches of the kinds that are here.

use serde_json::{Map, Value};

/// Applies a patch: null removes, objects merge, anything else replaces. Directives (`$…`) are left out.
pub(super) fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(target) = target else { return };
    for (name, value) in patch.iter().filter(|(name, _)| !name.starts_with('$')) {
        if value.is_null() {
            target.remove(name);
        } else {
            merge(target.entry(name.clone()).or_insert(Value::Null), value);
        }
    }
}
