//! VolumeAttachments and the PersistentVolumes behind them.

use serde::{Deserialize, Serialize};

use crate::policy::json::{null_is_default, object_or_null};

/// A VolumeAttachment: while the object exists, the volume counts as attached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VolumeAttachment {
    #[serde(deserialize_with = "object_or_null")]
    pub metadata: ObjectName,
    #[serde(deserialize_with = "object_or_null")]
    pub spec: VolumeAttachmentSpec,
}

/// `spec` of a VolumeAttachment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct VolumeAttachmentSpec {
    #[serde(deserialize_with = "null_is_default")]
    pub node_name: String,
    #[serde(deserialize_with = "object_or_null")]
    pub source: VolumeAttachmentSource,
}

/// `spec.source` of a VolumeAttachment: without a PersistentVolume it is an inline volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct VolumeAttachmentSource {
    pub persistent_volume_name: Option<String>,
}

impl VolumeAttachment {
    /// The name of the attached PersistentVolume. `None` for an inline volume.
    pub fn persistent_volume(&self) -> Option<&str> {
        self.spec.source.persistent_volume_name.as_deref().filter(|name| !name.is_empty())
    }
}

/// A PersistentVolume, with the claim that it is bound to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PersistentVolume {
    #[serde(deserialize_with = "object_or_null")]
    pub spec: PersistentVolumeSpec,
}

/// `spec` of a PersistentVolume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PersistentVolumeSpec {
    pub claim_ref: Option<ClaimRef>,
}

/// `spec.claimRef` of a PersistentVolume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClaimRef {
    #[serde(deserialize_with = "null_is_default")]
    pub namespace: String,
    #[serde(deserialize_with = "null_is_default")]
    pub name: String,
}

/// `metadata` of an object, with the name only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ObjectName {
    #[serde(deserialize_with = "null_is_default")]
    pub name: String,
}
