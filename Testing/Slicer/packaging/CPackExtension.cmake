# Packs what gets installed; Slicer's own file names the archive after revision and platform.
set(CPACK_GENERATOR TGZ)
set(CPACK_PACKAGE_FILE_NAME ${PROJECT_NAME})
include(CPack)
