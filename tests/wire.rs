//! Every name and number of the wire protocol, held against a table of facts about etcd's: no row without its
//! counterpart in `proto/`, nothing in `proto/` (of the packages that the table covers) without its row.
//! A row: kind, owner, name, number, type; tab-separated.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet,
    field_descriptor_proto::{Label, Type},
};

const TABLE: &str = include_str!("etcd-wire.tsv");

#[test]
fn names_and_numbers_are_etcds() {
    let wanted: BTreeSet<String> = TABLE.lines().map(str::to_owned).collect();
    let packages: BTreeSet<&str> =
        TABLE.lines().filter(|row| row.starts_with("file\t")).map(|row| row.split('\t').nth(1).unwrap()).collect();
    assert!(wanted.len() > 500, "the table of facts is cut short: {} rows", wanted.len());

    let set = FileDescriptorSet::decode(urd::DESCRIPTORS).expect("the build's own descriptors decode");
    let mut found = BTreeSet::new();
    for file in &set.file {
        let package = file.package();
        if !packages.contains(package) {
            continue;
        }
        let syntax = if file.syntax().is_empty() { "proto2" } else { file.syntax() };
        found.insert(format!("file\t{package}\t{}\t\t{syntax}", file.name()));
        for message in &file.message_type {
            message_rows(package, message, &mut found);
        }
        for kind in &file.enum_type {
            enum_rows(package, kind, &mut found);
        }
        for service in &file.service {
            for method in &service.method {
                let stream = |streaming: bool| if streaming { "stream " } else { "" };
                found.insert(format!(
                    "rpc\t{package}.{}\t{}\t\t{}{} -> {}{}",
                    service.name(),
                    method.name(),
                    stream(method.client_streaming()),
                    method.input_type().trim_start_matches('.'),
                    stream(method.server_streaming()),
                    method.output_type().trim_start_matches('.'),
                ));
            }
        }
    }

    let missing: Vec<&String> = wanted.difference(&found).collect();
    let unknown: Vec<&String> = found.difference(&wanted).collect();
    assert!(missing.is_empty() && unknown.is_empty(), "not in proto/: {missing:#?}\nnot in the table: {unknown:#?}");
    println!("{} rows, in both directions", wanted.len());
}

#[test]
fn only_the_health_protocol_is_beyond_the_table() {
    let set = FileDescriptorSet::decode(urd::DESCRIPTORS).unwrap();
    let covered: BTreeSet<&str> =
        TABLE.lines().filter(|row| row.starts_with("file\t")).map(|row| row.split('\t').nth(1).unwrap()).collect();
    let beyond: BTreeMap<&str, &str> = set
        .file
        .iter()
        .filter(|file| !covered.contains(file.package()))
        .map(|file| (file.package(), file.name()))
        .collect();
    assert_eq!(beyond, BTreeMap::from([("grpc.health.v1", "health.proto")]));
}

fn message_rows(scope: &str, message: &DescriptorProto, rows: &mut BTreeSet<String>) {
    let name = format!("{scope}.{}", message.name());
    if message.field.is_empty() {
        rows.insert(format!("message\t{name}\t\t\t"));
    }
    for field in &message.field {
        let oneof = match field.oneof_index {
            Some(at) if !field.proto3_optional() => {
                format!(" oneof {}", message.oneof_decl[at as usize].name())
            }
            _ => String::new(),
        };
        rows.insert(format!(
            "field\t{name}\t{}\t{}\t{} {}{oneof}",
            field.name(),
            field.number(),
            label(field),
            type_name(field)
        ));
    }
    for nested in &message.nested_type {
        message_rows(&name, nested, rows);
    }
    for kind in &message.enum_type {
        enum_rows(&name, kind, rows);
    }
}

fn enum_rows(scope: &str, kind: &EnumDescriptorProto, rows: &mut BTreeSet<String>) {
    for value in &kind.value {
        rows.insert(format!("enum\t{scope}.{}\t{}\t{}\t", kind.name(), value.name(), value.number()));
    }
}

fn label(field: &FieldDescriptorProto) -> &'static str {
    match field.label() {
        Label::Repeated => "repeated",
        Label::Required => "required",
        Label::Optional => "optional",
    }
}

fn type_name(field: &FieldDescriptorProto) -> &str {
    match field.r#type() {
        Type::Message | Type::Enum => field.type_name().trim_start_matches('.'),
        Type::Int32 => "int32",
        Type::Int64 => "int64",
        Type::Uint32 => "uint32",
        Type::Uint64 => "uint64",
        Type::Bool => "bool",
        Type::String => "string",
        Type::Bytes => "bytes",
        other => panic!("{} has a type that etcd's protocol does not use: {other:?}", field.name()),
    }
}
