//! VolumeAttachments, PersistentVolumes, and the claims that they are bound to.

use std::fmt;

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
    /// The name of the CSI driver.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub attacher: String,
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
    pub metadata: ObjectName,
    #[serde(deserialize_with = "object_or_null")]
    pub spec: PersistentVolumeSpec,
}

/// `spec` of a PersistentVolume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PersistentVolumeSpec {
    pub claim_ref: Option<ClaimRef>,
    /// `None`: the volume is not a CSI driver's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub csi: Option<CsiVolume>,
}

/// `spec.csi` of a PersistentVolume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CsiVolume {
    #[serde(deserialize_with = "null_is_default")]
    pub driver: String,
}

/// `spec.claimRef` of a PersistentVolume, and how a pod names a claim.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct ClaimRef {
    #[serde(deserialize_with = "null_is_default")]
    pub namespace: String,
    #[serde(deserialize_with = "null_is_default")]
    pub name: String,
}

impl fmt::Display for ClaimRef {
    /// `namespace/name`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.namespace, self.name)
    }
}

/// A PersistentVolumeClaim, with the volume that it is bound to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PersistentVolumeClaim {
    #[serde(deserialize_with = "object_or_null")]
    pub spec: PersistentVolumeClaimSpec,
}

/// `spec` of a PersistentVolumeClaim.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PersistentVolumeClaimSpec {
    /// The name of the PersistentVolume. Empty if the claim is not bound.
    #[serde(deserialize_with = "null_is_default")]
    pub volume_name: String,
}

/// `metadata` of an object, with the name only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ObjectName {
    #[serde(deserialize_with = "null_is_default")]
    pub name: String,
}
