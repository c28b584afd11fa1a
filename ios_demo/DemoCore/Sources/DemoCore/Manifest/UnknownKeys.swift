/// The first key of some JSON that no stored property of the value decoded from it stands for; nil where all do.
///
/// `Decodable` skips such keys. Instead of an initializer by hand in every record, the two trees are walked side by side.
func unknownKey(in json: JSONValue, of value: Any, path: String = "") -> String? {
  let mirror = Mirror(reflecting: value)
  switch (json, mirror.displayStyle) {
  case (.null, _):
    return nil
  case (_, .optional?):
    return mirror.children.first.flatMap { unknownKey(in: json, of: $0.value, path: path) }
  case (.object(let fields), .struct?):
    return unknownKey(in: fields, of: properties(of: mirror), path: path)
  case (.object(let fields), .dictionary?):
    return unknownKey(in: fields, of: entries(of: value), path: path)
  case (.array(let items), .collection?):
    return zip(items, mirror.children).enumerated().lazy
      .compactMap { index, pair in unknownKey(in: pair.0, of: pair.1.value, path: "\(path)\(index).") }.first
  default:
    return nil
  }
}

private func unknownKey(in fields: [String: JSONValue], of known: [String: Any], path: String) -> String? {
  fields.sorted { $0.key < $1.key }.lazy.compactMap { key, json in
    known[key].map { unknownKey(in: json, of: $0, path: "\(path)\(key).") } ?? "\(path)\(key)"
  }.first
}

private func properties(of mirror: Mirror) -> [String: Any] {
  Dictionary(uniqueKeysWithValues: mirror.children.map { (snakeCase($0.label ?? ""), $0.value) })
}

private func entries(of value: Any) -> [String: Any] {
  value as? [String: Any] ?? [:]
}

/// `kvBits` -> `kv_bits`
private func snakeCase(_ name: String) -> String {
  name.map { $0.isUppercase ? "_\($0.lowercased())" : String($0) }.joined()
}
