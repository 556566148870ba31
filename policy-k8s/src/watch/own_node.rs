//! One node, before the watch begins.

use netpol_core::model::Node;

use super::request::{escaped, get, whole};
use super::source::{Nodes, Source as _};
use super::wire::Page;
use super::{Change, Failure, Options};

/// Returns a node by name, if there is one: what an embedder must know of its own node before it can say what to compile,
/// such as its pod ranges. Asks once, with the right to list nodes.
///
/// # Errors
/// As those of a watch; none is final.
pub async fn node(
    client: &kube::Client,
    options: &Options,
    name: &str,
) -> Result<Option<Node>, Failure> {
    let path = format!("{}?fieldSelector=metadata.name%3D{}", Nodes::PATH, escaped(name));
    let body = get(client, &path, options.answer_timeout).await?;
    let text = whole(body, options.answer_timeout).await?;
    let malformed = |error: serde_json::Error| Failure::Malformed(error.into());
    let page: Page<'_> = serde_json::from_slice(&text).map_err(malformed)?;
    for item in page.items.unwrap_or_default() {
        let (object, change) = Nodes::read(item, &mut Vec::new()).map_err(malformed)?;
        if let Change::PutNode(node) = change
            && *object.name == *name
        {
            return Ok(Some(node));
        }
    }
    Ok(None)
}
