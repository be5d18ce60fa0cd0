//! What holds of the document, whoever adds a resource.

use std::collections::BTreeSet;

use serde_json::Value;

use super::*;

fn document() -> Value {
    serde_json::from_slice(&rendered().json).unwrap()
}

fn each(document: &Value) -> impl Iterator<Item = (&str, &str, &Value)> {
    document["paths"].as_object().unwrap().iter().flat_map(|(path, item)| {
        item.as_object().unwrap().iter().map(move |(method, operation)| (path.as_str(), method.as_str(), operation))
    })
}

/// `docs/openapi.json` is what people read on the web and what clients are made from.
#[test]
fn the_committed_document_is_that_of_the_code() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/openapi.json");
    let now = format!("{}\n", serde_json::to_string_pretty(&document()).unwrap());
    if std::env::var_os("TIDEGATE_WRITE_OPENAPI").is_some() {
        std::fs::write(&path, &now).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    let line = committed.lines().zip(now.lines()).position(|(a, b)| a != b);
    assert!(
        committed == now,
        "docs/openapi.json differs from the code (first at line {line:?}); write it anew with\n  \
         TIDEGATE_WRITE_OPENAPI=1 cargo test --lib the_committed_document_is_that_of_the_code"
    );
}

#[test]
fn every_operation_has_a_summary_a_known_tag_and_an_id_of_its_own() {
    let document = document();
    let mut ids = BTreeSet::new();
    for (path, method, operation) in each(&document) {
        let here = format!("{method} {path}");
        assert!(
            operation["summary"].as_str().is_some_and(|text| text.len() > 5),
            "{here}: first line of the doc comment"
        );
        let tag = operation["tags"][0].as_str().unwrap_or_else(|| panic!("{here} has no tag"));
        assert!(TAGS.iter().any(|(name, _)| *name == tag), "{here}: {tag} is not among openapi::TAGS");
        assert!(ids.insert(operation["operationId"].as_str().unwrap()), "{here}");
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            assert!(
                parameter["description"].as_str().is_some_and(|text| !text.is_empty()),
                "{here}: say what {} means (doc comment of its field)",
                parameter["name"]
            );
        }
    }
    assert!(ids.len() >= 20, "{ids:?}");
}

#[test]
fn every_error_is_a_problem_document_and_every_read_of_json_has_an_etag() {
    let document = document();
    for (path, method, operation) in each(&document) {
        for (status, response) in operation["responses"].as_object().unwrap() {
            let here = format!("{method} {path} {status}");
            if !is_error(status) {
                if status == "200" && method == "get" && response["content"].get(JSON).is_some() && !path.ends_with("z")
                {
                    assert!(response["headers"]["ETag"].is_object(), "{here}");
                }
                continue;
            }
            let response = match response["$ref"].as_str() {
                Some(reference) => document.pointer(reference.strip_prefix('#').unwrap()).unwrap(),
                None => response,
            };
            if path == "/readyz" {
                continue;
            }
            assert!(response["content"].get(PROBLEM_JSON).is_some(), "{here}");
            assert!(!response["description"].as_str().unwrap().is_empty(), "{here}: say when");
        }
    }
}

#[test]
fn every_reference_leads_somewhere() {
    fn walk<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(map) => map.iter().for_each(|(key, value)| match value.as_str() {
                Some(reference) if key == "$ref" => found.push(reference),
                _ => walk(value, found),
            }),
            Value::Array(items) => items.iter().for_each(|item| walk(item, found)),
            _ => {}
        }
    }
    let document = document();
    let mut found = Vec::new();
    walk(&document, &mut found);
    assert!(found.len() > 20);
    for reference in found {
        assert!(document.pointer(reference.strip_prefix('#').unwrap()).is_some(), "{reference}");
    }
}

/// Routes get into the document because `routes!` puts them into both; one added by axum's own `route` would not.
#[test]
fn the_api_adds_routes_by_the_macro_that_documents_them() {
    let src = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = vec![src.join("api.rs")];
    let mut folders = vec![src.join("api")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    assert!(files.len() > 10);
    for file in files.iter().filter(|file| !file.ends_with("openapi_tests.rs")) {
        let text = std::fs::read_to_string(file).unwrap();
        let product = text.split("#[cfg(test)]").next().unwrap();
        for call in [".route(", ".route_service(", ".nest_service("] {
            assert!(!product.contains(call), "{} adds a route by {call}: use .routes(routes!(...))", file.display());
        }
    }
}
