use serde_json::json;

use super::*;

fn read(request: &serde_json::Value) -> Review {
    let review = json!({"apiVersion": API_VERSION, "kind": KIND, "request": request});
    super::read(review.to_string().as_bytes()).unwrap()
}

fn malformed(review: &Review) -> &str {
    match &review.content {
        Content::Malformed { why, .. } => why,
        content => panic!("not malformed: {content:?}"),
    }
}

#[test]
fn a_body_without_a_uid_is_an_error() {
    for body in [
        "",
        "{}",
        "null",
        "[]",
        r#"{"request":{}}"#,
        r#"{"request":{"uid":7}}"#,
        r#"{"request":{"uid":"u""#,
        r#"{"request":["u"]}"#,
        r#"[["u"]]"#,
        r#"["admission.k8s.io/v1","AdmissionReview",{"uid":"u"}]"#,
    ] {
        assert!(super::read(body.as_bytes()).is_err(), "{body}");
    }
    assert!(super::read(b"\xff\xfe").is_err());
}

#[test]
fn every_review_with_a_uid_is_answered() {
    for (request, why) in [
        (json!({"uid": "u", "operation": 5}), "could not be read"),
        (json!({"uid": "u", "operation": "UPDATE", "object": {}}), "oldObject is missing"),
        (json!({"uid": "u", "operation": "DELETE"}), "oldObject is missing"),
        (json!({"uid": "u", "operation": "CREATE"}), "object is missing"),
        (json!({"uid": "u", "operation": "CREATE", "object": [1]}), "object is not a Node"),
        (json!({"uid": "u", "operation": "CREATE", "object": {"metadata": {}}}), "the Node has no name"),
        (json!({"uid": "u", "operation": "PATCH", "object": {}, "oldObject": {}}), "is not one of"),
        (json!({"uid": "u"}), "is not one of"),
        (json!({"uid": "u", "userInfo": "root"}), "could not be read"),
        (json!({"uid": "u", "resource": ["", "pods"]}), "could not be read"),
    ] {
        let review = read(&request);
        assert_eq!(review.uid, "u");
        assert!(malformed(&review).contains(why), "{:?}", review.content);
    }
    let other =
        super::read(br#"{"apiVersion":"admission.k8s.io/v1beta1","kind":"AdmissionReview","request":{"uid":"u"}}"#);
    assert!(malformed(&other.unwrap()).contains("v1beta1"));
}

#[test]
fn deeply_nested_arrays_are_malformed_and_do_not_overflow_the_stack() {
    let bomb = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let review = |object: &str| {
        format!(
            r#"{{"apiVersion":"{API_VERSION}","kind":"{KIND}","request":{{"uid":"u","operation":"CREATE","object":{object}}}}}"#
        )
    };
    malformed(&super::read(review(&bomb).as_bytes()).unwrap());
    let hidden = review(&format!(r#"{{"metadata":{{"name":"n"}},"status":{{"images":{bomb}}}}}"#));
    assert!(
        super::read(hidden.as_bytes()).unwrap().request().is_some(),
        "unknown fields are skipped without recursion"
    );
}

#[test]
fn what_no_api_server_stores_or_sends_is_malformed() {
    let create = |node: serde_json::Value| json!({"uid": "u", "operation": "CREATE", "object": node});
    let many = |entry: serde_json::Value| vec![entry; 1001];
    let of_status =
        |key: &str, entry: serde_json::Value| create(json!({"metadata": {"name": "n"}, "status": {key: many(entry)}}));
    let taint = json!({"key": "node.kubernetes.io/out-of-service", "effect": "NoExecute"});
    for request in [
        create(json!({"metadata": {"name": "n"}, "spec": {"taints": many(taint)}})),
        of_status("conditions", json!({"type": "Ready"})),
        of_status("addresses", json!({"type": "InternalIP"})),
        of_status("volumesAttached", json!({})),
    ] {
        assert!(malformed(&read(&request)).contains("more than 1000 entries that count"), "{request}");
    }
    let long = "x".repeat(256 * 1024);
    let annotated = create(json!({"metadata": {"name": "n", "annotations": {"fencegate.dev/proof": long}}}));
    assert!(malformed(&read(&annotated)).contains("more than 262144 bytes"));
    let of_user = json!({"uid": "u", "operation": "DELETE", "userInfo": {"groups": [long]}});
    assert!(malformed(&read(&of_user)).contains("userInfo has more than 262144 bytes"));
}

#[test]
fn what_does_not_count_is_skipped_however_much_it_is() {
    let many = |entry: serde_json::Value| vec![entry; 5000];
    let node = json!({
        "metadata": {"name": "n", "finalizers": many(json!("a/b")), "annotations": {"other": "x".repeat(1 << 20)}},
        "spec": {"taints": many(json!({}))},
        "status": {"conditions": many(json!({})), "volumesAttached": many(json!({"name": "kubernetes.io/csi/d^v"}))},
    });
    let review = read(&json!({"uid": "u", "operation": "CREATE", "object": node}));
    let node = review.request().unwrap().write.after().unwrap();
    assert_eq!(node.metadata.finalizers.len(), 5);
    assert!(node.spec.taints.is_empty() && node.status.conditions.is_empty());
}

#[test]
fn a_duplicate_key_is_malformed() {
    let twice = format!(
        r#"{{"apiVersion":"{API_VERSION}","kind":"{KIND}","request":{{"uid":"u","operation":"CREATE","object":{{"metadata":{{"name":"n"}},"metadata":{{"name":"n"}}}}}}}}"#
    );
    assert!(malformed(&super::read(twice.as_bytes()).unwrap()).contains("duplicate field"));
    let operation = format!(
        r#"{{"apiVersion":"{API_VERSION}","kind":"{KIND}","request":{{"uid":"u","operation":"CREATE","operation":"DELETE"}}}}"#
    );
    assert!(malformed(&super::read(operation.as_bytes()).unwrap()).contains("duplicate field"));
}

#[test]
fn a_write_to_something_else_is_unrelated() {
    let pods = json!({"uid": "u", "operation": "CREATE", "object": {"spec": 5}, "resource": {"version": "v1", "resource": "pods"}});
    let metrics =
        json!({"uid": "u", "operation": "CREATE", "resource": {"group": "metrics.k8s.io", "resource": "nodes"}});
    let connect =
        json!({"uid": "u", "operation": "CONNECT", "subResource": "proxy", "resource": {"resource": "nodes"}});
    for request in [pods, metrics, connect] {
        assert_eq!(read(&request).content, Content::Unrelated);
    }
}

#[test]
fn a_status_update_cannot_change_the_taints() {
    let taints = json!([{"key": "node.kubernetes.io/out-of-service", "effect": "NoExecute"}]);
    let review = read(&json!({"uid": "u", "operation": "UPDATE", "subResource": "status",
        "oldObject": {"metadata": {"name": "n"}, "spec": {"taints": taints}},
        "object": {"metadata": {"name": "n"}, "spec": {}}}));
    let request = review.request().unwrap();
    assert!(crate::policy::transition::Transitions::of(&request.write).is_none());
}

#[test]
fn a_node_without_a_name_is_the_one_that_the_request_names() {
    let review = read(&json!({"uid": "u", "operation": "CREATE", "name": "n7", "object": {}}));
    assert_eq!(review.request().unwrap().node, "n7");
}

#[test]
fn an_answer_has_a_message_if_the_write_is_denied() {
    let review = read(&json!({"uid": "u", "operation": "CREATE", "object": {}}));
    let denied = Decision::malformed("n7".into(), "no name".into(), crate::policy::reason::Mode::Enforce);
    let message = Answer::new(Webhook::Validate, &review, &denied).message().map(str::to_owned);
    assert!(message.is_some_and(|message| message.contains("no name")));
    assert_eq!(Answer::new(Webhook::Validate, &review, &Decision::unrelated()).message(), None);
}

#[test]
fn if_a_collection_is_deleted_the_old_object_names_the_node() {
    let review = read(&json!({"uid": "u", "operation": "DELETE", "name": "", "object": null,
        "oldObject": {"metadata": {"name": "n7"}}}));
    assert_eq!(review.request().unwrap().node, "n7");
}
