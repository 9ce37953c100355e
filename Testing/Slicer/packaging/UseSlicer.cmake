# The macros of Slicer and CTK that a scripted extension calls, as strict about their arguments as the originals.
enable_testing()

function(refuse_missing where)
  foreach(file IN LISTS ARGN)
    if(NOT EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/${file})
      message(FATAL_ERROR "${where} names ${file}, which does not exist")
    endif()
  endforeach()
endfunction()

function(ctkMacroCompilePythonScript)
  cmake_parse_arguments(
    MY "GLOBAL_TARGET;NO_INSTALL_SUBDIR" "TARGET_NAME;SOURCE_DIR;DESTINATION_DIR;INSTALL_DIR" "SCRIPTS;RESOURCES" ${ARGN})
  if(MY_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "ctkMacroCompilePythonScript does not know ${MY_UNPARSED_ARGUMENTS}")
  endif()
  foreach(required TARGET_NAME SCRIPTS DESTINATION_DIR INSTALL_DIR)
    if(NOT MY_${required})
      message(FATAL_ERROR "ctkMacroCompilePythonScript needs ${required}")
    endif()
  endforeach()
  refuse_missing(${MY_TARGET_NAME} ${MY_SCRIPTS} ${MY_RESOURCES})
  foreach(file IN LISTS MY_SCRIPTS MY_RESOURCES)
    configure_file(${CMAKE_CURRENT_SOURCE_DIR}/${file} ${MY_DESTINATION_DIR}/${file} COPYONLY)
  endforeach()
  add_custom_target(Copy${MY_TARGET_NAME}PythonFiles ALL)
  set(contents "/")
  if(NOT MY_NO_INSTALL_SUBDIR)
    set(contents "")
  endif()
  install(DIRECTORY "${MY_DESTINATION_DIR}${contents}" DESTINATION ${MY_INSTALL_DIR} COMPONENT RuntimeLibraries)
endfunction()

function(slicerMacroBuildScriptedModule)
  cmake_parse_arguments(MY "WITH_GENERIC_TESTS;WITH_SUBDIR;VERBOSE" "NAME" "SCRIPTS;RESOURCES" ${ARGN})
  if(MY_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "slicerMacroBuildScriptedModule does not know ${MY_UNPARSED_ARGUMENTS}")
  endif()
  ctkMacroCompilePythonScript(
    TARGET_NAME ${MY_NAME}
    SCRIPTS ${MY_SCRIPTS}
    RESOURCES ${MY_RESOURCES}
    DESTINATION_DIR ${CMAKE_BINARY_DIR}/${Slicer_QTSCRIPTEDMODULES_LIB_DIR}
    INSTALL_DIR ${Slicer_INSTALL_QTSCRIPTEDMODULES_LIB_DIR}
    NO_INSTALL_SUBDIR
    )
  if(BUILD_TESTING AND MY_WITH_GENERIC_TESTS)
    add_test(NAME py_nomainwindow_qSlicer${MY_NAME}ModuleGenericTest COMMAND ${Slicer_LAUNCHER_EXECUTABLE})
  endif()
endfunction()

function(slicer_add_python_unittest)
  cmake_parse_arguments(MY "" "TESTNAME_PREFIX;SCRIPT" "SLICER_ARGS" ${ARGN})
  if(MY_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "slicer_add_python_unittest does not know ${MY_UNPARSED_ARGUMENTS}")
  endif()
  # The script is looked for in the folder itself, by its name alone.
  get_filename_component(name ${MY_SCRIPT} NAME_WE)
  refuse_missing(slicer_add_python_unittest ${name}.py)
  add_test(NAME py_${MY_TESTNAME_PREFIX}${name} COMMAND ${Slicer_LAUNCHER_EXECUTABLE} ${MY_SLICER_ARGS})
endfunction()
