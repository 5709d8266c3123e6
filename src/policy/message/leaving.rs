//! The words about pods and volumes that are left on the node: which go by themselves, and what
//! makes the others go.

use super::situation::Situation;
use crate::policy::shell::Command;

/// What pods or volumes wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Awaited {
    LetPodsGo,
    CheckPodGc,
    FindFinalizers,
    DeletePods,
    LetVolumesGo,
    LetVolumesOfNodeGo,
    CheckAttacher,
    RepairDriver,
}

impl Awaited {
    /// What to do, as one line without an end, and the commands that do it.
    pub(super) fn words(self, situation: &Situation<'_>) -> (String, Vec<Command>) {
        let (text, commands) = match self {
            Self::CheckPodGc => (
                "pod GC deletes such pods within seconds: find out whether kube-controller-manager runs; those that are left",
                vec![situation.list_pods()],
            ),
            Self::FindFinalizers => {
                let text = "no wait removes a finalizer: find out which controller should, and why it does not";
                (text, situation.show_pods_with_finalizers())
            }
            Self::DeletePods => ("nothing evicts these pods: delete them", situation.delete_pods()),
            Self::LetPodsGo => (
                "leave the taint on: pods in Terminating go within about 20 s; those that are left",
                vec![situation.list_pods()],
            ),
            Self::LetVolumesGo => (
                "volumes are detached right after their pods are gone; those that are left",
                vec![situation.list_attachments()],
            ),
            Self::LetVolumesOfNodeGo => (
                "volumes of plugins without VolumeAttachments leave the Node's status once they are detached; those that are left",
                vec![situation.list_volumes_of_node()],
            ),
            Self::CheckAttacher => (
                "a volume that is to be detached for minutes waits for its driver's attacher: find out whether that runs; those that are left",
                vec![situation.list_attachments()],
            ),
            Self::RepairDriver => {
                let text = "no wait ends an error that the driver repeats: read the logs of its controller; those that are left";
                (text, vec![situation.list_attachments()])
            }
        };
        (text.to_owned(), commands)
    }
}
