//! `metadata`, as far as policy needs it. Annotations and managed fields, most of an object's bytes, are skipped.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;

use netpol_core::model::{Labels, ObjectMeta, ObjectRef, Source};
use serde::{Deserialize, Deserializer};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Metadata {
    name: Arc<str>,
    #[serde(default)]
    namespace: Option<Arc<str>>,
    #[serde(default)]
    uid: Option<Arc<str>>,
    #[serde(default)]
    creation_timestamp: Option<Arc<str>>,
    #[serde(default)]
    pub(super) deletion_timestamp: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    labels: Option<BTreeMap<Arc<str>, Arc<str>>>,
}

impl Metadata {
    pub(super) fn into_meta(self) -> ObjectMeta {
        let namespace = self.namespace.unwrap_or_else(|| "".into());
        ObjectMeta {
            object: ObjectRef { namespace, name: self.name },
            uid: self.uid,
            created: self.creation_timestamp,
            labels: Labels(self.labels.unwrap_or_default()),
            source: Source::default(),
        }
    }
}

/// Null is what is not there.
pub(super) fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}
