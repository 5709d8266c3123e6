//! What keeps the taint on: a pod that is bound to the node, a volume of the node, or a machine
//! that did not reboot, each with what is known about why.
//!
//! Most pods and volumes go within seconds once the taint is on. A person who is told about one
//! that does not must see at once what it waits for.

use std::fmt;

use jiff::SignedDuration;

use super::text::{Ago, FirstFive, Foreign, Span};

/// A pod that keeps the taint on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockingPod {
    /// `namespace/name`.
    pub name: Foreign,
    pub leaving: Leaving,
}

/// What makes a pod leave the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leaving {
    /// The taint evicts it.
    Evicted,
    /// Nothing yet: the node does not have the taint.
    Bound,
    /// It is being deleted. `since`: for how long, if that can be read.
    Terminating { since: Option<SignedDuration>, finalizers: Vec<Foreign> },
    /// Nothing: it tolerates the taint.
    Tolerates,
    /// Nothing: every entry of the taint is `NoSchedule`, and that evicts nothing.
    NotEvicted,
}

/// A volume that keeps the taint on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlockingVolume {
    Attachment(Box<BlockingAttachment>),
    /// An entry of `status.volumesAttached` of the Node: its plugin has no VolumeAttachments.
    OfNodeStatus(Foreign),
}

/// A VolumeAttachment that keeps the taint on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockingAttachment {
    pub name: Foreign,
    pub volume: VolumeName,
    /// The CSI driver that must detach it.
    pub driver: Foreign,
    /// Whether the driver says that the volume is attached. If not, it still counts.
    pub is_attached: bool,
    /// For how long Kubernetes has wanted it detached. `None` if it does not yet.
    pub detaching: Option<SignedDuration>,
    pub finalizers: Vec<Foreign>,
    pub error: Option<DriverError>,
}

/// What a VolumeAttachment attaches, by the name that people know best.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumeName {
    /// `claim`: `namespace/name`.
    Claim { claim: Foreign, volume: Foreign },
    /// No claim is bound to it, or that could not be read.
    PersistentVolume(Foreign),
    /// Not a PersistentVolume: how the driver calls the volume.
    Inline(Foreign),
}

/// What the driver said when it last failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriverError {
    pub text: Foreign,
    /// From the failure to now.
    pub age: Option<SignedDuration>,
}

/// Why nothing shows that a machine has booted since it was isolated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotRebooted {
    /// The node is Ready in the boot that was fenced.
    SameBoot { boot_id: Foreign },
    /// The node is not Ready: it may still run in the boot that was fenced.
    NotReady,
    /// The node is Ready and reports no boot ID.
    NotReported,
    /// The record has no `boot-id` to compare with.
    NotRecorded,
}

impl BlockingPod {
    /// Whether it probably does not leave the node, however long one waits.
    pub fn is_stuck(&self) -> bool {
        match &self.leaving {
            Leaving::Evicted | Leaving::Bound => false,
            Leaving::Terminating { finalizers, .. } => !finalizers.is_empty(),
            Leaving::Tolerates | Leaving::NotEvicted => true,
        }
    }
}

impl BlockingVolume {
    /// What people call the volume: its PersistentVolume, how its driver calls it, or its name in
    /// the Node's status.
    pub fn label(&self) -> &Foreign {
        match self {
            Self::Attachment(attachment) => match &attachment.volume {
                VolumeName::Claim { volume, .. } => volume,
                VolumeName::PersistentVolume(name) | VolumeName::Inline(name) => name,
            },
            Self::OfNodeStatus(name) => name,
        }
    }

    /// The name of the VolumeAttachment, or the one in the Node's status.
    pub fn name(&self) -> &Foreign {
        match self {
            Self::Attachment(attachment) => &attachment.name,
            Self::OfNodeStatus(name) => name,
        }
    }
}

impl fmt::Display for BlockingPod {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, leaving } = self;
        match leaving {
            Leaving::Evicted | Leaving::Bound => write!(formatter, "{name}"),
            Leaving::Terminating { since, finalizers } => {
                write!(formatter, "{name} (terminating")?;
                write_for(formatter, *since)?;
                write_finalizers(formatter, finalizers)?;
                formatter.write_str(")")
            }
            Leaving::Tolerates => write!(formatter, "{name} (tolerates the taint, nothing evicts it)"),
            Leaving::NotEvicted => write!(formatter, "{name} (NoSchedule alone does not evict it)"),
        }
    }
}

impl fmt::Display for BlockingVolume {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Attachment(attachment) => attachment.fmt(formatter),
            Self::OfNodeStatus(name) => write!(formatter, "{name} (in the Node's status.volumesAttached)"),
        }
    }
}

impl fmt::Display for BlockingAttachment {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, volume, driver, is_attached, detaching, finalizers, error } = self;
        match volume {
            VolumeName::Claim { claim, volume } => write!(formatter, "{claim} (PersistentVolume {volume}, ")?,
            VolumeName::PersistentVolume(volume) => write!(formatter, "PersistentVolume {volume} (")?,
            VolumeName::Inline(handle) => write!(formatter, "inline volume {handle} (")?,
        }
        let state = if *is_attached { "attached" } else { "not attached" };
        write!(formatter, "VolumeAttachment {name} of driver {driver}: {state}")?;
        if detaching.is_some() {
            formatter.write_str(", to be detached")?;
            write_for(formatter, *detaching)?;
        }
        match error {
            Some(DriverError { text, age }) => {
                write!(formatter, ", fails: {text:.200}")?;
                age.map_or(Ok(()), |age| write!(formatter, " {}", Ago(age)))?;
            }
            None if detaching.is_some() => write_finalizers(formatter, finalizers)?,
            None => {}
        }
        formatter.write_str(")")
    }
}

impl fmt::Display for NotRebooted {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SameBoot { boot_id } => {
                write!(
                    formatter,
                    "mounts from before the fence still exist: the node is Ready in the boot that was fenced, {boot_id}"
                )
            }
            Self::NotReady => {
                formatter.write_str("mounts from before the fence may exist: the node is not Ready in another boot")
            }
            Self::NotReported => formatter
                .write_str("mounts from before the fence may exist: the node does not report which boot it is in"),
            Self::NotRecorded => formatter
                .write_str("mounts from before the fence may exist: the record does not say which boot was fenced"),
        }
    }
}

fn write_for(formatter: &mut fmt::Formatter<'_>, age: Option<SignedDuration>) -> fmt::Result {
    match age {
        Some(age) if age.is_positive() => write!(formatter, " for {}", Span(age)),
        // It began just now, or by a clock that is ahead of this one.
        Some(_) | None => Ok(()),
    }
}

fn write_finalizers(formatter: &mut fmt::Formatter<'_>, finalizers: &[Foreign]) -> fmt::Result {
    match finalizers {
        [] => Ok(()),
        [one] => write!(formatter, ", waits for finalizer {one}"),
        many => write!(formatter, ", waits for finalizers {}", FirstFive(many)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_has_a_name_and_is_called_what_people_know_it_by() {
        let attached = |volume| {
            BlockingVolume::Attachment(Box::new(BlockingAttachment {
                name: "csi-4f6a".into(),
                volume,
                driver: "san.example".into(),
                is_attached: true,
                detaching: None,
                finalizers: Vec::new(),
                error: None,
            }))
        };
        let of_claim = VolumeName::Claim { claim: "prod/data".into(), volume: "pv-1".into() };
        for (volume, name, label) in [
            (attached(of_claim), "csi-4f6a", "pv-1"),
            (attached(VolumeName::PersistentVolume("pv-2".into())), "csi-4f6a", "pv-2"),
            (attached(VolumeName::Inline("disk-3".into())), "csi-4f6a", "disk-3"),
            (BlockingVolume::OfNodeStatus("csi/disk-4".into()), "csi/disk-4", "csi/disk-4"),
        ] {
            assert_eq!((volume.name(), volume.label()), (&name.into(), &label.into()), "{volume:?}");
        }
    }
}
