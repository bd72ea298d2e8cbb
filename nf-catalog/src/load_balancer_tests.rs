//! The load balancer's keys and its choice of backends. Its packets are tested end to end.

use super::*;
use serde_json::json;

fn web() -> Value {
    json!({ "services": [{ "match": "tcp/80,443", "backends": ["10.1.0.1", "10.1.0.2"] }] })
}

#[test]
fn wrong_keys_are_reported_where_they_are() {
    let keys = |config: Value| {
        let problems = LoadBalancerConfig::read(&config).unwrap_err();
        problems.into_iter().map(|problem| problem.key).collect::<Vec<_>>()
    };
    assert_eq!(keys(json!({})), ["services"]);
    assert_eq!(keys(json!({ "services": "tcp/80" })), ["services", "services"]);
    let service = |changes: Value| {
        let mut config = web();
        for (key, value) in changes.as_object().unwrap() {
            config["services"][0][key] = value.clone();
        }
        keys(config)
    };
    assert_eq!(service(json!({ "match": "tcp/x" })), ["services[0].match"]);
    assert_eq!(service(json!({ "backends": [] })), ["services[0].backends"]);
    assert_eq!(
        service(json!({ "backends": ["10.1.0.1", "ten", "10.1.0.1"] })),
        ["services[0].backends[1]", "services[0].backends[2]"]
    );
    assert_eq!(
        service(json!({ "backends": ["2001:db8::1", "2001:DB8::1", "10.1.0.1"] })),
        ["services[0].backends[1]", "services[0].backends[2]"]
    );
    let many: Vec<String> = (0..17).map(|n| format!("10.1.0.{n}")).collect();
    assert_eq!(service(json!({ "backends": many })), ["services[0].backends"]);
    assert_eq!(
        service(json!({ "connections_max": 0, "weight": 3 })),
        ["services[0].connections_max", "services[0].weight"]
    );
}

#[test]
fn the_least_loaded_backend_is_chosen_the_first_among_equals_and_none_beyond_its_limit() {
    let mut load = ValueBytes::of(&[0_u32; BACKENDS_MAX]);
    let by = |backend: u32| ValueBytes::of(&Assignment { backend, connections_max: 2 });
    let mut chosen = Vec::new();
    for _ in 0..6 {
        chosen.push(assign(&mut load, &by(3)));
    }
    assert_eq!(chosen, [0, 1, 2, 0, 1, 2].map(OpValue::Int));
    assert_eq!(assign(&mut load, &by(3)), OpValue::Empty);
    release(&mut load, &by(1));
    assert_eq!(assign(&mut load, &by(3)), OpValue::Int(1));
    for _ in 0..5 {
        release(&mut load, &by(2));
    }
    assert_eq!(load.read::<Load>().unwrap()[..4], [2, 2, 0, 0]);
}

#[test]
fn a_connection_and_its_translated_form_have_one_slot() {
    let config = LoadBalancerConfig::read(&web()).unwrap();
    let balancer = LoadBalancer::new(&config, 64, 9, &mut Declarations::default());
    let mut used = std::collections::BTreeSet::new();
    for port in 1_000..1_100 {
        let key = |server: u32| FlowKey::v4(6, 0x0a00_0001, port, server, 443).0;
        let slot = balancer.connection_slot(&key(0xc633_6401));
        assert!(slot.is_some() && slot == balancer.connection_slot(&key(0x0a01_0001)));
        used.insert(slot.map(|slot| slot.0));
    }
    assert!(used.len() > 32, "clients are spread");
    assert_eq!(balancer.connection_slot(&FlowKey::v4(6, 1, 80, 2, 443).0), None, "nobody is the client");
    assert_eq!(balancer.connection_slot(&FlowKey::v4(17, 1, 80, 2, 53).0), None);
}
