//! Service accounts as in the manifests of operators, with tokens that the API server issued.

use http::Method;
use serde_json::{Value, json};

use super::plane::Plane;

/// A service account with a role for Nodes.
pub struct Account {
    namespace: &'static str,
    name: &'static str,
    /// A token that is not bound to a pod.
    pub token: String,
}

impl Account {
    /// Creates the namespace, the service account and a role with these `verbs` on Nodes.
    pub async fn create(plane: &Plane, namespace: &'static str, name: &'static str, verbs: &[&str]) -> Self {
        // The namespace may exist already: some operators run in kube-system.
        let _ = plane
            .api("admin", Method::POST, "/api/v1/namespaces", Some(json!({"metadata": {"name": namespace}})))
            .await;
        let accounts = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
        plane.create(&accounts, json!({"metadata": {"name": name}})).await;
        let rules = json!([{"apiGroups": [""], "resources": ["nodes"], "verbs": verbs}]);
        let subject = json!({"kind": "ServiceAccount", "namespace": namespace, "name": name});
        bind(plane, name, rules, subject).await;
        let mut account = Self { namespace, name, token: String::new() };
        account.token = account.request_token(plane, json!({})).await;
        account
    }

    /// The account's user name.
    pub fn user(&self) -> String {
        format!("system:serviceaccount:{}:{}", self.namespace, self.name)
    }

    /// A token that is bound to a pod on this node. The API server adds the node's name to the
    /// requester's `extra`.
    pub async fn token_on(&self, plane: &Plane, node: &str) -> String {
        let pod = json!({"metadata": {"generateName": "agent-"}, "spec": {"nodeName": node, "serviceAccountName": self.name,
            "automountServiceAccountToken": false, "tolerations": [{"operator": "Exists"}],
            "containers": [{"name": "c", "image": "i"}]}});
        let pod = plane.create(&format!("/api/v1/namespaces/{}/pods", self.namespace), pod).await;
        let to =
            json!({"kind": "Pod", "apiVersion": "v1", "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]});
        self.request_token(plane, json!({"boundObjectRef": to})).await
    }

    async fn request_token(&self, plane: &Plane, spec: Value) -> String {
        let path = format!("/api/v1/namespaces/{}/serviceaccounts/{}/token", self.namespace, self.name);
        let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
        plane.create(&path, request).await["status"]["token"].as_str().unwrap().to_owned()
    }
}

/// Creates a ClusterRole with these rules, and binds the subject to it.
pub async fn bind(plane: &Plane, role: &str, rules: Value, subject: Value) {
    let role_object = json!({"metadata": {"name": role}, "rules": rules});
    plane.create("/apis/rbac.authorization.k8s.io/v1/clusterroles", role_object).await;
    bind_role(plane, role, subject).await;
}

/// Binds the subject to an existing ClusterRole.
pub async fn bind_role(plane: &Plane, role: &str, subject: Value) {
    let role_ref = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role});
    let binding = json!({"metadata": {"generateName": "test-"}, "roleRef": role_ref, "subjects": [subject]});
    plane.create("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding).await;
}
