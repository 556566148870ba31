//! Whether a kind is served at all. ClusterNetworkPolicies are an extension that may come and go.

use kube::Client;

use super::Options;
use super::failure::Failure;
use super::request::{get, whole};
use super::wire::ResourceList;

/// Asks discovery. Only a clear answer counts: a failure says nothing about what is served.
pub(super) async fn is_served(
    client: &Client,
    options: &Options,
    group_version: &str,
    plural: &str,
) -> Result<bool, Failure> {
    let limit = options.answer_timeout;
    let body = match get(client, group_version, limit).await {
        Ok(body) => body,
        Err(failure) if failure.is_not_found() => return Ok(false),
        Err(failure) => return Err(failure),
    };
    let text = whole(body, limit).await?;
    let list: ResourceList =
        serde_json::from_slice(&text).map_err(|error| Failure::Malformed(error.into()))?;
    Ok(list.resources.iter().any(|resource| resource.name == plural))
}
