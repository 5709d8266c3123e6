//! Reads the reviews of the webhooks `pods.fencegate.dev` and `attachments.fencegate.dev`: which
//! writes are doors to the same harm as the taint (contract section 13).

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use super::{Malformed, RawRequest, Resource};
use crate::policy::{
    door::{Door, Grace},
    json::{Object, null_is_default, object_or_null},
    object::{deleted_pod::DeletedPod, volume::VolumeAttachment},
    request::User,
};

/// Whether objects of this resource are read here.
pub(super) fn is_guarded(resource: &Resource) -> bool {
    matches!((resource.group.as_str(), resource.resource.as_str()), ("", "pods") | (STORAGE, "volumeattachments"))
}

const STORAGE: &str = "storage.k8s.io";

/// `DeleteOptions`, in a request or in an Eviction.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Options {
    grace_period_seconds: Option<i64>,
}

/// An Eviction of `policy/v1`.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Eviction {
    #[serde(deserialize_with = "object_or_null")]
    metadata: EvictionMetadata,
    #[serde(deserialize_with = "object_or_null")]
    delete_options: Options,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct EvictionMetadata {
    #[serde(deserialize_with = "null_is_default")]
    namespace: String,
    #[serde(deserialize_with = "null_is_default")]
    name: String,
}

/// The door that a request takes. `None` if it takes none.
pub(super) fn door(request: &RawRequest<'_, &RawValue>, user: &User) -> Result<Option<Door>, Malformed> {
    let Some(Object(Resource { group, resource })) = &request.resource else { return Ok(None) };
    let user = user.clone();
    let (old, new) = (("oldObject", request.old_object), ("object", request.object));
    match (group.as_str(), resource.as_str(), request.sub_resource.as_str(), request.operation.as_str()) {
        ("", "pods", "", "DELETE") => {
            let pod: DeletedPod = read(old, "Pod")?;
            // The API server sends none for the deletion of a collection without options.
            let asked: Options = read_or_default(("options", request.options), "DeleteOptions")?;
            let grace = Grace { asked: asked.grace_period_seconds, own: pod.own_grace() };
            Ok(Door::deletes_pod(user, pod.pod(), grace))
        }
        ("", "pods", "eviction", "CREATE") => {
            let Eviction { metadata, delete_options } = read(new, "Eviction")?;
            let or = |value: &str, other: String| if value.is_empty() { other } else { value.to_owned() };
            let namespace = or(&request.namespace, metadata.namespace);
            let name = or(&request.name, metadata.name);
            Ok(Door::evicts_pod(user, namespace, name, delete_options.grace_period_seconds))
        }
        (STORAGE, "volumeattachments", "", "DELETE") => {
            let attachment: VolumeAttachment = read(old, "VolumeAttachment")?;
            Ok(Door::deletes_attachment(user, attachment))
        }
        (STORAGE, "volumeattachments", "", "UPDATE") => {
            let stored: VolumeAttachment = read(old, "VolumeAttachment")?;
            let written: VolumeAttachment = read(new, "VolumeAttachment")?;
            Ok(Door::updates_attachment(user, stored, &written))
        }
        _ => Ok(None),
    }
}

/// A part of a request, by its name.
type Part<'a> = (&'static str, Option<&'a RawValue>);

fn read<T: DeserializeOwned>(part: Part<'_>, kind: &'static str) -> Result<T, Malformed> {
    let (side, Some(raw)) = part else { return Err(Malformed::Missing(part.0)) };
    let read = serde_json::from_str(raw.get()).map(|Object(object)| object);
    read.map_err(|source| Malformed::Object { side, kind, source })
}

fn read_or_default<T: DeserializeOwned + Default>(part: Part<'_>, kind: &'static str) -> Result<T, Malformed> {
    if part.1.is_none() { Ok(T::default()) } else { read(part, kind) }
}
