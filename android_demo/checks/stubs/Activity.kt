// androidx.activity, which no registry of packages that the checks use has.
package androidx.activity

import androidx.activity.result.ActivityResultLauncher
import androidx.activity.result.contract.ActivityResultContract

@Suppress("UNUSED_PARAMETER")
open class ComponentActivity : android.app.Activity() {
    fun <I, O> registerForActivityResult(
        contract: ActivityResultContract<I, O>,
        callback: (O) -> Unit
    ): ActivityResultLauncher<I> = TODO()
}
