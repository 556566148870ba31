//! Lists: a consistent state, in pages.

use alloc::sync::Arc;

use serde_json::{Value, json};

use super::query::Query;
use super::resource::{Origin, Resource};
use super::selector::Filter;
use super::status::Status;
use super::store::{Key, Store};

pub(super) fn list(
    store: &Store,
    resource: &'static Resource,
    filter: &Filter,
    query: &Query,
) -> Result<Value, Status> {
    let asked = query.text("resourceVersion");
    let number =
        || asked.parse::<u64>().map_err(|_| Status::bad_request("invalid resourceVersion"));
    let (revision, after) = match query.text("continue") {
        "" => match (asked, query.text("resourceVersionMatch")) {
            ("" | "0", _) => (store.revision, None),
            (_, "Exact") => (number()?, None),
            (_, _) => {
                let asked = number()?;
                if asked > store.revision {
                    return Err(Status::too_large_version(asked, store.revision));
                }
                (store.revision, None)
            }
        },
        token => {
            let (revision, key) = read_token(token)
                .ok_or_else(|| Status::bad_request("continue key is not valid"))?;
            (revision, Some(key))
        }
    };
    let objects = store
        .objects_at(resource, revision)
        .map_err(|status| if after.is_some() { Status::continue_expired() } else { status })?;
    let matching: Vec<(&Key, &Arc<Value>)> = objects
        .iter()
        .filter(|(key, _)| after.as_ref().is_none_or(|after| *key > after))
        .filter(|(_, object)| filter.admits(object))
        .collect();
    // Served from the watch cache, which does not know pages.
    let limit = if asked == "0" { 0 } else { query.number("limit").unwrap_or(0) };
    let limit = usize::try_from(limit).ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX);
    let page: Vec<Value> = matching
        .iter()
        .take(limit)
        .map(|(_, object)| {
            let mut object = Value::clone(object);
            if let (Origin::BuiltIn, Some(fields)) = (resource.origin, object.as_object_mut()) {
                fields.remove("kind");
                fields.remove("apiVersion");
            }
            object
        })
        .collect();
    let mut metadata = json!({ "resourceVersion": revision.to_string() });
    let left = matching.len().saturating_sub(page.len());
    if left > 0
        && let Some((key, _)) = page.len().checked_sub(1).and_then(|last| matching.get(last))
        && let Some(metadata) = metadata.as_object_mut()
    {
        metadata.insert("continue".into(), write_token(revision, key).into());
        if !filter.has_selectors() {
            metadata.insert("remainingItemCount".into(), left.into());
        }
    }
    Ok(json!({
        "kind": format!("{}List", resource.kind),
        "apiVersion": resource.group_version(),
        "metadata": metadata,
        "items": page,
    }))
}

fn write_token(revision: u64, (namespace, name): &Key) -> String {
    format!("{revision}_{namespace}_{name}")
}

fn read_token(token: &str) -> Option<(u64, Key)> {
    let mut parts = token.splitn(3, '_');
    let revision = parts.next()?.parse().ok()?;
    Some((revision, (parts.next()?.to_owned(), parts.next()?.to_owned())))
}
