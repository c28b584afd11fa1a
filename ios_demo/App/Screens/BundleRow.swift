import DemoCore
import SwiftUI

/// A bundle, and its engines to load. Where it does not fit, that is said first.
struct BundleRow: View {
  @Environment(AppModel.self) private var model
  let bundle: StoredBundle
  @State private var doubtful: EngineChoice?
  @State private var checked: String?

  var body: some View {
    VStack(alignment: .leading, spacing: 8) {
      HStack {
        Text(bundle.name).font(.headline)
        Spacer()
        if model.loaded?.bundle == bundle { Image(systemName: "checkmark.circle.fill").foregroundStyle(.green) }
      }
      Text(facts).font(.caption).foregroundStyle(.secondary)
      if let warning = model.fit(bundle).warning {
        Label(warning, systemImage: "exclamationmark.triangle").font(.caption)
      }
      if let checked { Text(checked).font(.caption) }
      HStack {
        ForEach(EngineChoice.available(in: bundle.manifest)) { choice in
          Button(choice.title) { ask(choice) }
        }
        Spacer()
        Button("Verify files", action: verify)
      }
      .buttonStyle(.bordered)
      .disabled(model.progress != nil)
    }
    .confirmationDialog(
      model.fit(bundle).warning ?? "", isPresented: $doubtful.isPresent(), titleVisibility: .visible,
      presenting: doubtful
    ) { choice in
      Button("Load all the same", role: .destructive) { model.load(bundle, choice) }
    }
  }

  private var facts: String {
    let manifest = bundle.manifest
    let bits = manifest.recipe.bitsPerWeight.formatted(.number.precision(.fractionLength(2)))
    return "\(gigabytes(bundle.bytes)), \(bits) bits per weight, \(manifest.limits.context) positions"
  }

  private func ask(_ choice: EngineChoice) {
    if model.fit(bundle).verdict == .fits { model.load(bundle, choice) } else { doubtful = choice }
  }

  private func verify() {
    checked = "Reading every byte ..."
    Task.detached { [bundle] in
      let told: String
      do {
        try BundleFiles(folder: bundle.folder).verify(bundle.manifest)
        told = "All files are as they were exported."
      } catch {
        told = error.localizedDescription
      }
      await MainActor.run { checked = told }
    }
  }
}
