import DemoCore
import SwiftUI

/// Bundles on this device; where to get more.
struct ModelsView: View {
  @Environment(AppModel.self) private var model
  @State private var picksFolder = false
  @State private var asksAddress = false
  @State private var address = ""

  var body: some View {
    NavigationStack {
      List {
        if let progress = model.store.progress { DownloadRow(progress: progress, cancel: model.store.cancel) }
        ForEach(model.store.bundles) { BundleRow(bundle: $0) }
          .onDelete { indices in
            Task { await model.tellTrouble { for index in indices { try delete(index) } } }
          }
        ForEach(model.store.refused.sorted { $0.key < $1.key }, id: \.key) { name, reason in
          LabeledContent(name) { Text(reason).font(.caption) }.foregroundStyle(.secondary)
        }
      }
      .overlay { if model.store.bundles.isEmpty && model.store.progress == nil { NoBundles() } }
      .navigationTitle("Models")
      .toolbar {
        Button("Copy a folder", systemImage: "folder.badge.plus") { picksFolder = true }
        Button("Download", systemImage: "icloud.and.arrow.down") { asksAddress = true }
      }
      .refreshable { model.store.refresh() }
      .fileImporter(isPresented: $picksFolder, allowedContentTypes: [.folder]) { result in
        Task { await model.tellTrouble { try await model.store.copy(from: result.get()) } }
      }
      .alert("Address of the bundle's folder", isPresented: $asksAddress) {
        TextField("https://", text: $address).textInputAutocapitalization(.never)
        Button("Download", action: download)
        Button("Cancel", role: .cancel) {}
      }
    }
  }

  private func delete(_ index: Int) throws {
    try model.store.delete(model.store.bundles[index])
  }

  private func download() {
    Task {
      await model.tellTrouble {
        guard let url = URL(string: address), url.scheme == "https" else {
          throw UserError("this is no address that begins with https://")
        }
        try await model.store.download(from: url)
      }
    }
  }
}

private struct NoBundles: View {
  var body: some View {
    ContentUnavailableView(
      "No models yet", systemImage: "shippingbox",
      description: Text("Copy a folder that `make export TARGET=ios` wrote, in Finder or from the Files app."))
  }
}

private struct DownloadRow: View {
  let progress: BundleStore.Progress
  let cancel: () -> Void

  var body: some View {
    ProgressView(value: progress.share) {
      Text(progress.name)
    } currentValueLabel: {
      Text(progress.text)
    }
    .swipeActions { Button("Pause", action: cancel) }
  }
}
