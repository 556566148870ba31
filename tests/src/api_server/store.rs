//! Objects, one global revision, and the log of what happened to them.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use super::merge::merge;
use super::resource::{Generation, RESOURCES, Resource, Scope};
use super::status::Status;

/// Namespace (empty for cluster-scoped kinds) and name.
pub(super) type Key = (String, String);

type Objects = BTreeMap<Key, Arc<Value>>;

/// One change of one object.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) revision: u64,
    pub(super) resource: &'static Resource,
    pub(super) key: Key,
    pub(super) before: Option<Arc<Value>>,
    pub(super) after: Option<Arc<Value>>,
}

/// INVARIANT (log): undoing the log from the end leads through every earlier state back to the horizon.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) revision: u64,
    /// Nothing up to here is remembered.
    pub(super) horizon: u64,
    pub(super) log: VecDeque<Change>,
    objects: BTreeMap<&'static str, Objects>,
    uids: u64,
}

/// Which half of an object a write may change.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Part {
    /// Everything; for the test, which plays kubelet and controllers too.
    All,
    Main,
    Status,
}

impl Store {
    pub(super) fn new() -> Self {
        Self {
            revision: 1,
            horizon: 1,
            log: VecDeque::new(),
            objects: RESOURCES.iter().map(|resource| (resource.plural, Objects::new())).collect(),
            uids: 0,
        }
    }

    pub(super) fn objects(&self, resource: &Resource) -> impl Iterator<Item = (&Key, &Arc<Value>)> {
        self.objects.get(resource.plural).into_iter().flatten()
    }

    pub(super) fn object(&self, resource: &Resource, key: &Key) -> Result<&Arc<Value>, Status> {
        let found = self.objects.get(resource.plural).and_then(|objects| objects.get(key));
        found.ok_or_else(|| Status::not_found(resource.plural, &key.1))
    }

    /// The objects as they were at a revision, by undoing the log.
    pub(super) fn objects_at(
        &self,
        resource: &'static Resource,
        revision: u64,
    ) -> Result<Objects, Status> {
        if revision < self.horizon {
            return Err(Status::expired(revision, self.horizon));
        }
        let mut objects = self.objects.get(resource.plural).cloned().unwrap_or_default();
        for change in self.log.iter().rev().take_while(|change| change.revision > revision) {
            if change.resource == resource {
                match &change.before {
                    Some(before) => objects.insert(change.key.clone(), before.clone()),
                    None => objects.remove(&change.key),
                };
            }
        }
        Ok(objects)
    }

    pub(super) fn compact(&mut self) {
        self.horizon = self.revision;
        self.log.clear();
    }

    /// A restarted server's watch cache starts at a revision of its own, so every older one is too old.
    pub(super) fn forget(&mut self) {
        self.revision += 1;
        self.compact();
    }

    pub(super) fn create(
        &mut self,
        resource: &'static Resource,
        namespace: &str,
        mut object: Value,
        part: Part,
    ) -> Result<Arc<Value>, Status> {
        let given = text(&object, "/metadata/resourceVersion").unwrap_or_default();
        if !given.is_empty() && part == Part::Main {
            return Err(Status::internal(
                "resourceVersion should not be set on objects to be created",
            ));
        }
        self.uids += 1;
        let uid = format!("00000000-0000-4000-8000-{:012x}", self.uids);
        let name = match (text(&object, "/metadata/name"), text(&object, "/metadata/generateName"))
        {
            (Some(name), _) if !name.is_empty() => name.to_owned(),
            (_, Some(prefix)) => format!("{prefix}{:05x}", self.uids),
            (_, None) => return Err(Status::invalid("metadata.name: Required value")),
        };
        let key = (namespace.to_owned(), name);
        if self.object(resource, &key).is_ok() {
            return Err(Status::already_exists(resource.plural, &key.1));
        }
        if resource.scope == Scope::Namespaced {
            let namespaces = RESOURCES.iter().find(|resource| resource.plural == "namespaces");
            let namespace = (String::new(), namespace.to_owned());
            if let Some(namespaces) = namespaces {
                self.object(namespaces, &namespace)?;
            }
        }
        let metadata = metadata(&mut object)?;
        metadata.insert("name".into(), key.1.clone().into());
        if resource.scope == Scope::Namespaced {
            metadata.insert("namespace".into(), namespace.into());
        }
        metadata.insert("uid".into(), uid.into());
        metadata.entry("creationTimestamp").or_insert_with(|| now().into());
        if resource.generation == Generation::Counted {
            metadata.insert("generation".into(), 1.into());
        }
        if part == Part::Main
            && let Some(object) = object.as_object_mut()
        {
            object.remove("status");
        }
        complete(resource, &mut object);
        Ok(self.commit(resource, key, Some(object)))
    }

    pub(super) fn replace(
        &mut self,
        resource: &'static Resource,
        key: Key,
        mut object: Value,
        part: Part,
    ) -> Result<Arc<Value>, Status> {
        let old = self.object(resource, &key)?.clone();
        let current = text(&old, "/metadata/resourceVersion").unwrap_or_default();
        let given = text(&object, "/metadata/resourceVersion").unwrap_or_default();
        if !given.is_empty() && given != current {
            return Err(Status::conflict(resource.plural, &key.1));
        }
        // A write to one half leaves the other as it was.
        let kept: &[&str] = match part {
            Part::All => &[],
            Part::Main => &["status"],
            Part::Status => &["spec", "metadata"],
        };
        if let Some(fields) = object.as_object_mut() {
            for name in kept {
                match old.get(*name) {
                    Some(value) => fields.insert((*name).to_owned(), value.clone()),
                    None => fields.remove(*name),
                };
            }
        }
        let metadata = metadata(&mut object)?;
        for name in [
            "name",
            "namespace",
            "uid",
            "creationTimestamp",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "generation",
            "resourceVersion",
        ] {
            match old.pointer("/metadata").and_then(|metadata| metadata.get(name)) {
                Some(value) => metadata.insert(name.to_owned(), value.clone()),
                None => metadata.remove(name),
            };
        }
        complete(resource, &mut object);
        if object == *old {
            return Ok(old);
        }
        if resource.generation == Generation::Counted && object.get("spec") != old.get("spec") {
            let generation = old.pointer("/metadata/generation").and_then(Value::as_u64);
            set(&mut object, "generation", (generation.unwrap_or(1) + 1).into());
        }
        let is_leaving = object.pointer("/metadata/deletionTimestamp").is_some()
            && old.pointer("/metadata/finalizers").is_some()
            && !has_finalizers(&object);
        let stored = self.commit(resource, key.clone(), Some(object));
        if is_leaving {
            return Ok(self.commit(resource, key, None));
        }
        Ok(stored)
    }

    pub(super) fn patch(
        &mut self,
        resource: &'static Resource,
        key: Key,
        patch: &Value,
        part: Part,
    ) -> Result<Arc<Value>, Status> {
        let mut object = Value::clone(self.object(resource, &key)?);
        merge(&mut object, patch);
        self.replace(resource, key, object, part)
    }

    /// Every pod delete is two events: MODIFIED with a deletion timestamp, then DELETED.
    pub(super) fn delete(
        &mut self,
        resource: &'static Resource,
        key: Key,
        grace: Option<u64>,
    ) -> Result<Arc<Value>, Status> {
        let old = self.object(resource, &key)?.clone();
        let is_pod = resource.kind == "Pod";
        let has_node = text(&old, "/spec/nodeName").is_some_and(|node| !node.is_empty());
        let grace = if is_pod && has_node { grace.unwrap_or(30) } else { 0 };
        if is_pod || resource.kind == "Namespace" || has_finalizers(&old) {
            let mut object = Value::clone(&old);
            if object.pointer("/metadata/deletionTimestamp").is_none() {
                set(&mut object, "deletionTimestamp", now().into());
            }
            set(&mut object, "deletionGracePeriodSeconds", grace.into());
            if object != *old {
                let stored = self.commit(resource, key.clone(), Some(object));
                if grace > 0 {
                    return Ok(stored);
                }
            }
            if has_finalizers(&old) {
                return Ok(old);
            }
        }
        if resource.kind == "Namespace" {
            for resource in RESOURCES.iter().filter(|resource| resource.scope == Scope::Namespaced)
            {
                let inside: Vec<Key> = self
                    .objects(resource)
                    .map(|(inner, _)| inner.clone())
                    .filter(|inner| inner.0 == key.1)
                    .collect();
                for inner in inside {
                    self.delete(resource, inner, Some(0))?;
                }
            }
        }
        Ok(self.commit(resource, key, None))
    }

    /// Gives the change a revision. A deletion carries the last object with a new one, too.
    fn commit(
        &mut self,
        resource: &'static Resource,
        key: Key,
        after: Option<Value>,
    ) -> Arc<Value> {
        self.revision += 1;
        let objects = self.objects.entry(resource.plural).or_default();
        let before = objects.get(&key).cloned();
        let stored = after.map(|mut object| {
            set(&mut object, "resourceVersion", self.revision.to_string().into());
            Arc::new(object)
        });
        let shown = match (&stored, &before) {
            (Some(stored), _) => {
                objects.insert(key.clone(), stored.clone());
                stored.clone()
            }
            (None, before) => {
                objects.remove(&key);
                at_revision(before.as_deref().unwrap_or(&Value::Null), self.revision)
            }
        };
        self.log.push_back(Change {
            revision: self.revision,
            resource,
            key,
            before,
            after: stored,
        });
        shown
    }
}

/// The object as the event that takes it away shows it.
pub(super) fn at_revision(object: &Value, revision: u64) -> Arc<Value> {
    let mut object = object.clone();
    set(&mut object, "resourceVersion", revision.to_string().into());
    Arc::new(object)
}

pub(super) fn text<'v>(value: &'v Value, pointer: &str) -> Option<&'v str> {
    value.pointer(pointer).and_then(Value::as_str)
}

fn metadata(object: &mut Value) -> Result<&mut Map<String, Value>, Status> {
    let object = object.as_object_mut().ok_or_else(|| Status::bad_request("not an object"))?;
    let metadata = object.entry("metadata").or_insert_with(|| json!({}));
    metadata.as_object_mut().ok_or_else(|| Status::bad_request("metadata is not an object"))
}

fn set(object: &mut Value, name: &str, value: Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert(name.to_owned(), value);
    }
}

fn has_finalizers(object: &Value) -> bool {
    let finalizers = object.pointer("/metadata/finalizers").and_then(Value::as_array);
    finalizers.is_some_and(|finalizers| !finalizers.is_empty())
}

/// What the server fills in by itself.
fn complete(resource: &Resource, object: &mut Value) {
    if let Some(object) = object.as_object_mut() {
        object.insert("kind".into(), resource.kind.into());
        object.insert("apiVersion".into(), resource.group_version().into());
    }
    match resource.kind {
        "Namespace" => {
            let name = text(object, "/metadata/name").unwrap_or_default().to_owned();
            if let Ok(metadata) = metadata(object)
                && let Some(labels) =
                    metadata.entry("labels").or_insert_with(|| json!({})).as_object_mut()
            {
                labels.insert("kubernetes.io/metadata.name".into(), name.into());
            }
        }
        "NetworkPolicy" => complete_policy(object),
        "Pod" => {
            if let Some(object) = object.as_object_mut() {
                object.entry("status").or_insert_with(|| json!({ "phase": "Pending" }));
            }
        }
        _ => {}
    }
}

fn complete_policy(object: &mut Value) {
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return };
    for name in ["ingress", "egress"] {
        // An empty list is dropped; it means what an absent one means once `policyTypes` is there.
        let is_empty = spec.get(name).and_then(Value::as_array).is_some_and(Vec::is_empty);
        if is_empty && name == "egress" && spec.contains_key("policyTypes") {
            spec.remove(name);
        }
        for rule in spec.get_mut(name).and_then(Value::as_array_mut).into_iter().flatten() {
            let ports = rule.get_mut("ports").and_then(Value::as_array_mut);
            for port in ports.into_iter().flatten().filter_map(Value::as_object_mut) {
                port.entry("protocol").or_insert_with(|| "TCP".into());
            }
        }
    }
    if !spec.contains_key("policyTypes") {
        let has_egress =
            spec.get("egress").and_then(Value::as_array).is_some_and(|rules| !rules.is_empty());
        let types = if has_egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
        spec.insert("policyTypes".into(), types);
    }
}

/// Now, as `metadata` writes it: RFC 3339 in whole seconds of UTC.
fn now() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |past| past.as_secs());
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Howard Hinnant's civil_from_days, for days since 1970.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}
