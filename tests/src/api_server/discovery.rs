//! What clients ask first: versions, groups, resources, and as much of OpenAPI as `kubectl` looks at.

use serde_json::{Value, json};

use super::resource::{RESOURCES, Resource, Scope};

/// Answers a discovery path; `served` says whether a resource is there now.
pub(super) fn answer(path: &[&str], served: &dyn Fn(&Resource) -> bool) -> Option<Value> {
    let resources: Vec<&Resource> = RESOURCES.iter().filter(|resource| served(resource)).collect();
    match path {
        ["version"] => Some(json!({
            "major": "1", "minor": "36", "gitVersion": "v1.36.2", "platform": "linux/amd64",
        })),
        ["healthz" | "livez" | "readyz"] => Some(json!("ok")),
        ["api"] => Some(json!({ "kind": "APIVersions", "versions": ["v1"] })),
        ["apis"] => Some(groups(&resources)),
        ["api", "v1"] => Some(group_version("", "v1", &resources)),
        ["apis", group, version] => resources
            .iter()
            .any(|resource| resource.group == *group && resource.version == *version)
            .then(|| group_version(group, version, &resources)),
        ["openapi", "v3"] => Some(open_api_index(&resources)),
        ["openapi", "v3", "api", "v1"] => Some(open_api("", &resources)),
        ["openapi", "v3", "apis", group, _] => Some(open_api(group, &resources)),
        _ => None,
    }
}

fn groups(resources: &[&Resource]) -> Value {
    let groups = resources.iter().filter(|resource| !resource.group.is_empty()).map(|resource| {
        let version =
            json!({ "groupVersion": resource.group_version(), "version": resource.version });
        json!({ "name": resource.group, "versions": [version], "preferredVersion": version })
    });
    json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups.collect::<Vec<_>>() })
}

fn group_version(group: &str, version: &str, resources: &[&Resource]) -> Value {
    let inside = resources.iter().filter(|resource| resource.group == group);
    let entries = inside.map(|resource| {
        json!({
            "name": resource.plural,
            "singularName": resource.singular,
            "shortNames": [resource.short],
            "namespaced": resource.scope == Scope::Namespaced,
            "kind": resource.kind,
            "verbs": ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"],
        })
    });
    let name = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": name,
        "resources": entries.collect::<Vec<_>>(),
    })
}

fn open_api_index(resources: &[&Resource]) -> Value {
    let paths = resources.iter().map(|resource| {
        let path = match resource.group {
            "" => "api/v1".to_owned(),
            group => format!("apis/{group}/{}", resource.version),
        };
        (path.clone(), json!({ "serverRelativeURL": format!("/openapi/v3/{path}") }))
    });
    json!({ "paths": paths.collect::<serde_json::Map<_, _>>() })
}

/// `kubectl apply` looks only whether a PATCH knows `fieldValidation`.
fn open_api(group: &str, resources: &[&Resource]) -> Value {
    let paths = resources.iter().filter(|resource| resource.group == group).map(|resource| {
        let root = match resource.group {
            "" => "/api/v1".to_owned(),
            group => format!("/apis/{group}/{}", resource.version),
        };
        let patch = json!({
            "parameters": [{ "name": "fieldValidation", "in": "query", "schema": { "type": "string" } }],
            "x-kubernetes-group-version-kind": {
                "group": resource.group, "version": resource.version, "kind": resource.kind,
            },
            "responses": {},
        });
        (format!("{root}/{}/{{name}}", resource.plural), json!({ "patch": patch }))
    });
    json!({
        "openapi": "3.0.0", "info": { "title": "Kubernetes", "version": "v1.36.2" },
        "paths": paths.collect::<serde_json::Map<_, _>>(),
    })
}
