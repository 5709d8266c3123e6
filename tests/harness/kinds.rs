//! Custom resource definitions of other projects, reduced to what their objects need in these
//! tests.

use http::Method;
use serde_json::{Value, json};

use super::plane::Plane;

/// A kind of another project.
pub struct Kind {
    group: &'static str,
    version: &'static str,
    plural: &'static str,
    name: &'static str,
    namespaced: bool,
}

pub const FENCE_AGENTS_REMEDIATION: Kind = Kind {
    group: "fence-agents-remediation.medik8s.io",
    version: "v1alpha1",
    plural: "fenceagentsremediations",
    name: "FenceAgentsRemediation",
    namespaced: true,
};
pub const SELF_NODE_REMEDIATION: Kind = Kind {
    group: "self-node-remediation.medik8s.io",
    version: "v1alpha1",
    plural: "selfnoderemediations",
    name: "SelfNodeRemediation",
    namespaced: true,
};
pub const STORAGE_BASED_REMEDIATION: Kind = Kind {
    group: "storage-based-remediation.medik8s.io",
    version: "v1alpha1",
    plural: "storagebasedremediations",
    name: "StorageBasedRemediation",
    namespaced: true,
};
pub const NETWORK_FENCE: Kind = Kind {
    group: "csiaddons.openshift.io",
    version: "v1alpha1",
    plural: "networkfences",
    name: "NetworkFence",
    namespaced: false,
};
pub const NETWORK_FENCE_CLASS: Kind = Kind {
    group: "csiaddons.openshift.io",
    version: "v1alpha1",
    plural: "networkfenceclasses",
    name: "NetworkFenceClass",
    namespaced: false,
};
pub const CSI_ADDONS_NODE: Kind = Kind {
    group: "csiaddons.openshift.io",
    version: "v1alpha1",
    plural: "csiaddonsnodes",
    name: "CSIAddonsNode",
    namespaced: true,
};
pub const BARE_METAL_HOST: Kind =
    Kind { group: "metal3.io", version: "v1alpha1", plural: "baremetalhosts", name: "BareMetalHost", namespaced: true };
/// Kafka brokers: the operator owns their pods itself.
pub const STRIMZI_POD_SET: Kind = Kind {
    group: "core.strimzi.io",
    version: "v1beta2",
    plural: "strimzipodsets",
    name: "StrimziPodSet",
    namespaced: true,
};
/// A virtual machine: it runs in a pod.
pub const VIRTUAL_MACHINE_INSTANCE: Kind = Kind {
    group: "kubevirt.io",
    version: "v1",
    plural: "virtualmachineinstances",
    name: "VirtualMachineInstance",
    namespaced: true,
};

impl Kind {
    /// Creates the CustomResourceDefinition, and waits until the API server serves the kind.
    pub async fn install(&self, plane: &Plane) {
        let Self { group, version, plural, name, namespaced } = self;
        let version = json!({"name": version, "served": true, "storage": true, "subresources": {"status": {}},
            "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}});
        let definition = json!({"metadata": {"name": format!("{plural}.{group}")}, "spec": {
            "group": group,
            "scope": if *namespaced { "Namespaced" } else { "Cluster" },
            "names": {"plural": plural, "singular": name.to_lowercase(), "kind": name, "listKind": format!("{name}List")},
            "versions": [version]}});
        plane.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition).await;
        plane
            .until("the API server serves the kind", async |plane| plane.get(&self.path("default")).await.is_ok())
            .await;
    }

    /// Creates an object with this status. For a cluster-scoped kind, `namespace` has no effect.
    pub async fn create(&self, plane: &Plane, namespace: &str, mut object: Value) {
        let status = object["status"].take();
        object["apiVersion"] = json!(format!("{}/{}", self.group, self.version));
        object["kind"] = json!(self.name);
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        plane.create(&self.path(namespace), object).await;
        self.report(plane, namespace, &name, status).await;
    }

    /// The reference with which this object owns another one and controls it.
    pub async fn controller(&self, plane: &Plane, namespace: &str, name: &str) -> Value {
        let owner = plane.get(&format!("{}/{name}", self.path(namespace))).await.unwrap();
        json!({"apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": name, "uid": owner["metadata"]["uid"],
            "controller": true, "blockOwnerDeletion": true})
    }

    /// Writes the status of an object, as the kind's controller does.
    pub async fn report(&self, plane: &Plane, namespace: &str, name: &str, status: Value) {
        let path = format!("{}/{name}/status", self.path(namespace));
        plane.api("admin", Method::PATCH, &path, Some(json!({"status": status}))).await.unwrap();
    }

    pub async fn delete(&self, plane: &Plane, namespace: &str, name: &str) {
        plane.api("admin", Method::DELETE, &format!("{}/{name}", self.path(namespace)), None).await.unwrap();
    }

    /// Where the API server serves its objects.
    pub fn path(&self, namespace: &str) -> String {
        let Self { group, version, plural, namespaced, .. } = self;
        let place = if *namespaced { format!("namespaces/{namespace}/") } else { String::new() };
        format!("/apis/{group}/{version}/{place}{plural}")
    }
}
