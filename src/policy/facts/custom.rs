//! The facts about custom resources: one row for each kind that an evidence source reads.

use std::convert::Infallible;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Installed, Observed};
use crate::policy::{
    json::Object,
    object::{
        bare_metal_host::BareMetalHost,
        custom::{CustomResource, Kind, Scope},
        fence_agents_remediation::FenceAgentsRemediation,
        network_fence::{CsiAddonsNode, NetworkFence, NetworkFenceClass},
        node::Node,
        self_node_remediation::SelfNodeRemediation,
    },
};

/// One row for each custom kind: its field in [`CustomFacts`], which is also its label in metrics,
/// and its type.
macro_rules! custom_kinds {
    ($($(#[doc = $doc:literal])+ $field:ident: $kind:ident,)+) => {
        /// A kind of custom resource that an evidence source reads.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum CustomKind {
            $($(#[doc = $doc])+ $kind,)+
        }

        /// The facts about custom resources.
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(default, rename_all = "camelCase")]
        pub struct CustomFacts {
            $(#[serde(skip_serializing_if = "Observed::is_not_read")]
            pub $field: Observed<Installed<$kind>>,)+
        }

        impl CustomKind {
            /// All custom kinds.
            pub const ALL: &[Self] = &[$(Self::$kind,)+];

            /// Where the API server serves the kind.
            pub fn kind(self) -> Kind {
                match self { $(Self::$kind => <$kind as CustomResource>::KIND,)+ }
            }

            /// The smallest list that contains all objects about a node.
            pub fn scope(self, node: &Node) -> Scope<'_> {
                match self { $(Self::$kind => <$kind as CustomResource>::scope(node),)+ }
            }

            /// Whether an object may be about a node. `true` if the object cannot be parsed.
            pub fn may_be_about(self, object: &Value, node: &Node) -> bool {
                match self { $(Self::$kind => read::<$kind>(object).map_or(true, |object| object.is_about(node)),)+ }
            }

            /// Checks that an object has the shape of this kind.
            ///
            /// # Errors
            /// If it does not have this shape.
            pub fn check(self, object: &Value) -> Result<(), serde_json::Error> {
                match self { $(Self::$kind => read::<$kind>(object).map(drop),)+ }
            }

            /// The label in metrics.
            pub(super) fn name(self) -> &'static str {
                match self { $(Self::$kind => stringify!($field),)+ }
            }
        }

        impl CustomFacts {
            pub(super) fn learn(&mut self, at: Timestamp, kind: CustomKind, objects: Installed<Value>) {
                let unreadable = |error| format!("a {} could not be understood: {error}", kind.kind().name);
                match kind {
                    $(CustomKind::$kind => self.$field = Observed::new(at, read_all(objects).map_err(unreadable)),)+
                }
            }

            pub(super) fn why_unknown(&self, kind: CustomKind) -> Option<&str> {
                match kind { $(CustomKind::$kind => self.$field.value().err(),)+ }
            }

            pub(super) fn put(&mut self, kind: CustomKind, missing: Observed<Infallible>) {
                match kind { $(CustomKind::$kind => self.$field = missing.of(),)+ }
            }
        }
    };
}

custom_kinds! {
    /// FenceAgentsRemediations about the node.
    fence_agents_remediations: FenceAgentsRemediation,
    /// SelfNodeRemediations about the node.
    self_node_remediations: SelfNodeRemediation,
    /// All NetworkFences.
    network_fences: NetworkFence,
    /// All NetworkFenceClasses.
    network_fence_classes: NetworkFenceClass,
    /// What the node's CSI drivers tell about it.
    csi_addons_nodes: CsiAddonsNode,
    /// The BareMetalHost that the node names.
    bare_metal_hosts: BareMetalHost,
}

fn read<T: CustomResource>(object: &Value) -> Result<T, serde_json::Error> {
    Object::<T>::deserialize(object).map(|Object(object)| object)
}

fn read_all<T: CustomResource>(objects: Installed<Value>) -> Result<Installed<T>, serde_json::Error> {
    objects.map(|objects| objects.iter().map(read).collect()).transpose()
}
