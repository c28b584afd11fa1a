import SwiftUI

struct RootView: View {
  @Environment(AppModel.self) private var model

  var body: some View {
    @Bindable var model = model
    TabView {
      Tab("Models", systemImage: "shippingbox") { ModelsView() }
      Tab("Chat", systemImage: "bubble.left.and.bubble.right") { WhenLoaded { ChatView(loaded: $0) } }
      Tab("Benchmark", systemImage: "speedometer") { WhenLoaded { BenchmarkView(loaded: $0) } }
      Tab("Self-test", systemImage: "checkmark.seal") { WhenLoaded { SelfTestView(loaded: $0) } }
    }
    .task { model.start() }
    .alert("Something went wrong", isPresented: $model.trouble.isPresent(), presenting: model.trouble) { _ in
      Button("OK") { model.trouble = nil }
    } message: {
      Text($0)
    }
  }
}

/// A screen that needs a loaded model; a new one for each that is loaded.
private struct WhenLoaded<Content: View>: View {
  @Environment(AppModel.self) private var model
  @ViewBuilder let content: (AppModel.Loaded) -> Content

  var body: some View {
    if let loaded = model.loaded {
      content(loaded).id("\(loaded.bundle.name) \(loaded.choice.rawValue)")
    } else if let progress = model.progress {
      ProgressView("Loading, the first time for minutes", value: progress).padding()
    } else {
      ContentUnavailableView("No model is loaded", systemImage: "shippingbox", description: Text("Choose one first."))
    }
  }
}
