import Foundation

/// Notes what is going on before it can end the app, so that the next start can explain what happened.
enum Witness {
  private static let note = URL.applicationSupportDirectory.appending(path: "under-way")

  /// Around work that the system may answer by ending the app for want of memory.
  static func during<Result: Sendable>(
    _ what: String, _ work: @Sendable () async throws -> Result
  ) async rethrows -> Result {
    try? FileManager.default.createDirectory(at: .applicationSupportDirectory, withIntermediateDirectories: true)
    try? Data(what.utf8).write(to: note)
    defer { try? FileManager.default.removeItem(at: note) }
    return try await work()
  }

  /// What the app was at when it ended without having finished; asked once, at the start.
  static func testimony() -> String? {
    guard let what = try? String(contentsOf: note, encoding: .utf8) else { return nil }
    try? FileManager.default.removeItem(at: note)
    return "The app ended while it was \(what). Most likely the system wanted its memory back: close other apps, or "
      + "export a bundle with a smaller context."
  }
}
